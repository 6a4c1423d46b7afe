"""Norms of dead and nearly dead channels: what the decoded network says, not what tensors hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hemp_lightning import load, save


def network(bias: bool) -> nn.Sequential:
    """Two norms that are exact for their inputs; a dead channel, and variances 10^-7 to 10."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=bias),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, bias=bias),
    )
    net.append(nn.BatchNorm2d(8))
    with torch.no_grad():
        for layer in (net[0], net[3]):
            channels = len(layer.weight)
            layer.weight.mul_(torch.logspace(-3, 1, channels).view(-1, 1, 1, 1))
            layer.weight[3] = 0
            if bias:
                layer.bias.copy_(3 * torch.randn(channels))
    for norm in (net[1], net[4]):
        norm.momentum = None
        nn.init.normal_(norm.bias)
    for _ in range(10):
        net(torch.randn(64, 3, 8, 8))
    return net.eval()


@pytest.mark.parametrize("bias", [False, True])
def test_no_channel_is_off_by_much_of_its_deviation(tmp_path, bias):
    net = network(bias)
    state = net.state_dict()
    weights = {name: state.pop(name) for name in ("0.weight", "3.weight")}
    save(state, tmp_path / "x.hemp")
    decoded = network(bias)
    decoded.load_state_dict({**weights, **load(tmp_path / "x.hemp")})
    images = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        assert (decoded(images) - net(images)).abs().max() < 0.25
