"""Second-order rounding against nearest levels and against an exhaustive search."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hemp_lightning.calibration import second_order
from hemp_lightning.calibration.covariance import layers_of, moments_of, sensitivities
from hemp_lightning.calibration.inputs import Call, Inputs
from hemp_lightning.calibration.second_order import factor_of, round_tensor


def correlated(count, size, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(size, size, generator=draw)
    return torch.randn(count, size, generator=draw) @ mixed / size**0.5 + 0.5


def test_outputs_err_less_than_with_nearest_levels():
    torch.manual_seed(0)
    inputs, weights = correlated(500, 48), torch.randn(30, 48)
    second = (inputs.mT @ inputs / len(inputs))[None]
    rounded, book = round_tensor(weights, 0.5, torch.ones(30), factor_of(second, weights.shape))
    nearest = (weights / 0.5).round() * 0.5
    errors = [((w - weights) @ inputs.mT).square().mean() for w in (rounded, nearest)]
    assert errors[0] < 0.6 * errors[1]
    assert torch.equal(book.quantize(rounded), rounded)  # on its levels


def test_without_a_price_two_columns_are_rounded_as_well_as_can_be(monkeypatch):
    monkeypatch.setattr(second_order, "PRICE", 0.0)
    inputs, weights = correlated(200, 2, seed=3), 4 * torch.randn(40, 2)
    second = (inputs.mT @ inputs / len(inputs))[None]
    rounded, _ = round_tensor(weights, 1.0, torch.ones(40), factor_of(second, weights.shape))
    found = ((rounded - weights) @ inputs.mT).square().sum(1)
    around = [
        weights.floor() + torch.tensor(place) for place in itertools.product(range(2), repeat=2)
    ]
    best = torch.stack([((w - weights) @ inputs.mT).square().sum(1) for w in around]).amin(0)
    nearest = ((weights.round() - weights) @ inputs.mT).square().sum(1)
    assert best.sum() <= found.sum() * 1.0001
    assert found.sum() - best.sum() < 0.5 * (nearest.sum() - best.sum())


def test_a_transform_rounds_coefficients_and_keeps_the_outputs():
    torch.manual_seed(0)
    layer, inputs = nn.Conv2d(4, 8, 3, bias=False), torch.randn(50, 4, 9, 9)
    inputs = F.avg_pool2d(inputs, 3, 1) + inputs[:, :1, 1:-1, 1:-1]  # alike in all channels
    (own,) = layers_of(layer, ["weight"], Inputs([Call((inputs,), {})]))
    moments = moments_of(layer, [own], Inputs([Call((inputs,), {})]))["weight"]
    weights, ones = layer.weight.detach(), torch.ones(8)
    errors = []
    for factor in (factor_of(moments.second, weights.shape, "dct"), None):
        rounded, book = round_tensor(weights, 0.08, ones, factor, "dct")
        assert book.transform == "dct"
        assert torch.allclose(book.quantize(rounded), rounded, atol=1e-6)
        errors.append(F.conv2d(inputs, rounded - weights).square().mean().item())
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (7, 3, 6)),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (5, 4, 9, 9)),
        (nn.Conv2d(4, 4, (3, 1), groups=4, padding="same", padding_mode="reflect"), (5, 4, 9, 9)),
        (nn.Conv1d(3, 5, 4, dilation=2), (5, 3, 20)),
    ],
)
def test_moments_give_the_mean_square_of_outputs(layer, shape):
    torch.manual_seed(0)
    layer.bias.data.zero_()
    inputs = torch.randn(shape) + 0.3
    data = Inputs([Call((inputs,), {})])
    (own,) = layers_of(layer, ["weight"], data)
    moments = moments_of(layer, [own], data)["weight"]
    with torch.no_grad():
        outputs = layer(inputs)
    outputs = outputs.reshape(-1, 4) if isinstance(layer, nn.Linear) else outputs.transpose(0, 1)
    outputs = outputs.mT if isinstance(layer, nn.Linear) else outputs.flatten(1)
    weights = layer.weight.detach().reshape(len(moments.second), -1, moments.second.shape[1])
    power = ((weights @ moments.second) * weights).sum(2).flatten()
    assert torch.allclose(power, outputs.square().mean(1), rtol=1e-3)
    mean = (weights @ moments.first[:, :, None]).flatten()
    assert torch.allclose(mean, outputs.mean(1), atol=1e-4)


def test_sensitivities_are_the_curvature_of_the_divergence():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    inputs = torch.randn(20_000, 5)
    data = Inputs([Call((inputs,), {})])
    found = sensitivities(layer, {"weight": layer.weight}, data, seed=0)["weight"]
    with torch.no_grad():
        chances = layer(inputs).softmax(1)
        # the Hessian of the cross entropy: p (1 - p) x x^T
        wanted = torch.stack(
            [(p * (1 - p))[:, None].mul(inputs.square()).mean() for p in chances.mT]
        )
    assert torch.allclose(found, wanted, rtol=0.1)
