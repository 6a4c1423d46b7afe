"""Which parameters are quantized."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hemp_lightning.quantization.selection import select_tensors


def network() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3, bias=False))
    module.register_parameter("steps", nn.Parameter(torch.tensor([1, 2]), requires_grad=False))
    module.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    return module


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        ("weights", ["0.weight", "2.weight"]),
        ("layers", ["0.weight", "0.bias", "2.weight"]),
        ("all", ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight"]),
        ("1.bias", ["1.bias"]),
        (["2.*", "*.bias"], ["0.bias", "1.bias", "2.weight"]),
    ],
)
def test_names(tensors, names):
    module = network()
    chosen = select_tensors(module, tensors)
    assert list(chosen) == names
    assert all(chosen[name] is module.get_parameter(name) for name in names)


def test_a_shared_parameter_goes_by_its_first_name():
    module = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    module[1].weight = module[0].weight
    assert list(select_tensors(module)) == ["0.weight"]


@pytest.mark.parametrize(
    ("module", "tensors", "message"),
    [
        (network(), ["0.*", "steps"], "found 'steps', which matches none of 0.weight, 0.bias"),
        (nn.Flatten(), ["x"], "found 'x', which matches none of none"),
        (
            nn.Sequential(*[nn.BatchNorm1d(2) for _ in range(5)]),
            "weights",
            r"selects nothing in Sequential: .* found 0.weight, .*, 3.bias and 2 more",
        ),
        (nn.Flatten(), "all", "selects nothing in Flatten: .* found none"),
    ],
)
def test_what_is_not_there_is_told(module, tensors, message):
    with pytest.raises(ValueError, match=message):
        select_tensors(module, tensors)
