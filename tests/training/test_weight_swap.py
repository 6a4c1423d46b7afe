"""Quantized weights in and real ones back, by hand."""

import torch
from torch import nn

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.training.weight_swap import StandIn


def test_in_and_back_bit_for_bit_and_unseen_by_autograd():
    real = torch.tensor([-0.0, 1e-40, float("nan"), 0.7])
    parameter = nn.Parameter(real.clone())
    stand_in, version = StandIn({"a": parameter}), parameter._version
    loss = (parameter * parameter).sum()
    for _ in range(2):
        stand_in.enter({"a": Codebook(torch.tensor([0.0, 1.0]))})
        assert stand_in.active and parameter[[0, 1, 3]].tolist() == [0.0, 0.0, 1.0]
        assert torch.equal(stand_in.real_weights()["a"].view(torch.int32), real.view(torch.int32))
        stand_in.leave()
        assert torch.equal(parameter.data.view(torch.int32), real.view(torch.int32))
    assert parameter._version == version
    loss.backward()


def test_a_second_enter_keeps_the_real_weights():
    parameter = nn.Parameter(torch.tensor([0.2]))
    stand_in = StandIn({"a": parameter})
    stand_in.enter({})
    assert not stand_in.active
    for level in (1.0, 2.0):
        stand_in.enter({"a": Codebook(torch.tensor([level]))})
    assert parameter.item() == 1.0
    stand_in.leave()
    stand_in.leave()
    assert parameter.item() == torch.tensor(0.2)
    copy = stand_in.real_weights()["a"]
    copy.zero_()
    assert parameter.item() != 0
