"""Folded norms against PyTorch's own evaluation of the network that was folded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hemp_lightning import load, load_into, save
from hemp_lightning.file.fold_norms import folded_state
from tests.file.test_tolerances import network


def says(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(net).eval().double()(images.double())


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_network_computes_the_same(bias):
    net = network(bias)  # with dead channels
    net[1].weight.data[::2] *= -1
    folded, images = copy.deepcopy(net), torch.randn(8, 3, 8, 8)
    folded.load_state_dict(folded_state(net, float_dtype="float32"))
    torch.testing.assert_close(says(folded, images), says(net, images), rtol=1e-3, atol=1e-3)
    # without a bias before the norm the means of dead channels are 0, else far away
    far = net[1].running_mean.abs() > 16 * (net[1].running_var + 1e-5).sqrt()
    assert torch.equal(folded[1].running_mean, torch.where(far, net[1].running_mean, 0.0))
    assert bool(far[3]) == bias
    assert folded[4].weight.tolist() == [2.0] * 8


@pytest.mark.parametrize("bias", [False, True])
def test_on_steps_no_channel_is_off_by_much(tmp_path, bias):
    net = network(bias)
    net[1].weight.data[::2] *= -1  # a scale of both signs, of which a dead channel's is the largest
    weights = {name: net.state_dict()[name] for name in ("0.weight", "3.weight")}
    summary = save(net, tmp_path / "x.hemp", fold_norms=True, tensors=["0.weight", "3.weight"])
    plain = save(net, tmp_path / "y.hemp", tensors=["0.weight", "3.weight"])
    assert summary.file_bytes < plain.file_bytes
    found = copy.deepcopy(net)
    found.load_state_dict({**load(tmp_path / "x.hemp"), **weights})
    images = torch.randn(64, 3, 8, 8)
    assert (says(found, images) - says(net, images)).abs().max() < 0.25


class Shared(nn.Module):
    """One norm under two names, two norms that share a weight, one in half precision, one bare."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.ModuleList([nn.BatchNorm1d(4)] * 2)
        self.tied = nn.ModuleList([nn.BatchNorm1d(4), nn.BatchNorm1d(4)])
        self.tied[1].weight = self.tied[0].weight
        self.half = nn.BatchNorm1d(4).half()
        self.bare = nn.BatchNorm1d(4, affine=False)
        self.untracked = nn.BatchNorm1d(4, track_running_stats=False)
        for buffer in self.buffers():
            if buffer.is_floating_point():
                nn.init.uniform_(buffer, 1, 2)


def test_what_cannot_be_folded_stays_and_what_is_shared_stays_so(tmp_path):
    module = Shared()
    before, after = module.state_dict(), folded_state(module)
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    leaves = ("weight", "bias", "running_mean", "running_var")
    assert changed == {f"twice.{i}.{leaf}" for i in (0, 1) for leaf in leaves}
    assert after["twice.0.weight"] is after["twice.1.weight"]
    save(module, tmp_path / "x.hemp", fold_norms=True, tensors=["half.weight"])
    load_into(Shared(), tmp_path / "x.hemp")


def test_a_norm_that_is_quantized_stays():
    net = network(False)
    after = folded_state(net, quantized=["1.weight"])
    assert torch.equal(after["1.bias"], net[1].bias)
    assert not torch.equal(after["4.bias"], net[4].bias)


def test_a_state_dict_does_not_know_its_norms(tmp_path):
    with pytest.raises(TypeError, match=r"`fold_norms` needs a module.* found OrderedDict"):
        save(network(False).state_dict(), tmp_path / "x.hemp", fold_norms=True)
    assert not (tmp_path / "x.hemp").exists()
