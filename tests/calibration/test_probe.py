"""Noise for networks of all kinds, and what it says of their tensors."""

import copy

import pytest
import torch
from torch import nn

from hemp_lightning.calibration.grids import grid_codebooks, steps_of
from hemp_lightning.calibration.probe import Probe, noise_for
from hemp_lightning.quantization.codebook import Codebook


class Takes(nn.Module):
    """Refuses all shapes but one."""

    def __init__(self, layer, shape):
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, inputs):
        if inputs.shape[1:] != self.shape:
            raise RuntimeError("another shape")
        return self.layer(inputs)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3), (3, 28, 28)),
        (nn.Linear(6, 2), (6,)),
        (nn.Linear(6, 2), (16, 6)),
        (nn.Conv1d(2, 4, 3), (2, 128)),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), (16,)),
    ],
)
def test_finds_noise_of_the_shape_that_a_network_takes(layer, shape):
    network = Takes(layer, shape)
    inputs = noise_for(network)
    assert next(inputs.batches(3)).args[0].shape == (3, *shape)


def test_gives_up_where_no_guess_is_right_or_outputs_are_drawn():
    assert noise_for(Takes(nn.Linear(6, 2), (5, 6))) is None
    functional = Takes(nn.Linear(6, 2), (6,))
    functional.register_forward_hook(lambda module, args, out: out + torch.randn(2))
    assert noise_for(functional) is None


def test_curvatures_are_those_of_a_linear_layer():
    torch.manual_seed(0)
    network = nn.Linear(40, 30)
    weights = dict(network.named_parameters())
    inputs = noise_for(network)
    probe = Probe(network, {"weight": weights["weight"]}, inputs)
    (call,) = inputs.batches(10**6)
    with torch.no_grad():
        power = network(call.args[0]).square().sum(1).mean()
    # an error d of one weight moves one output by d x: E x^2 / E |y|^2
    wanted = call.args[0].square().mean() / power
    assert probe.curvatures["weight"] == pytest.approx(wanted.item(), rel=0.1)
    book = Codebook(torch.arange(-4, 5) * 0.05)
    error = (book.quantize(weights["weight"]) - weights["weight"]).detach()
    with torch.no_grad():
        found = (call.args[0] @ error.T).square().sum() / network(call.args[0]).square().sum()
    assert probe.error({"weight": book}) == pytest.approx(found.sqrt().item(), rel=0.02)
    assert probe.error({}) == 0.0


def test_steps_by_curvatures_err_less_at_as_many_bytes_than_steps_by_size():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    before = copy.deepcopy(network.state_dict())
    parameters = {n: p for n, p in network.named_parameters() if p.ndim > 1}
    probe = Probe(network, parameters, noise_for(network))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    transforms = dict.fromkeys(parameters, "none")

    def levels(curvatures, error):
        books = grid_codebooks(parameters, error, transforms, curvatures)
        bits = sum(
            p.numel() * torch.tensor(books[n].num_levels).log2() for n, p in parameters.items()
        )
        return float(bits), books

    bits, books = levels(probe.curvatures, 0.00003)
    plain_bits, plain = min(
        (levels(None, 0.1 * 0.85**k) for k in range(50)), key=lambda pair: abs(pair[0] - bits)
    )
    assert plain_bits == pytest.approx(bits, rel=0.03)
    assert probe.error(books) < probe.error(plain)
    # the error that the steps promise, to first order
    assert probe.error(books) == pytest.approx(0.00003**0.5, rel=0.35)


def test_a_tensor_that_noise_does_not_reach_keeps_steps_of_its_own_size():
    steps = steps_of({"a": torch.ones(100), "b": torch.ones(100)}, 0.01, {"a": 1.0, "b": 0.0})
    assert steps["b"] == 1.0 and steps["a"] < 0.1
