"""Which tensors the baselines work on, and putting other values in their place for a while."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning import LightningModule
from torch import Tensor, nn


def network_of(pl_module: LightningModule) -> nn.Module:
    """The network that a LightningModule trains: its attribute `network`, else itself."""
    network = getattr(pl_module, "network", pl_module)
    return network if isinstance(network, nn.Module) else pl_module


def weight_tensors(network: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of convolutions, linear and embedding layers, by their key; shared ones once.

    Example:
        >>> list(weight_tensors(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))))
        ['0.weight']
    """
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)
    owners = {
        f"{name}.weight" if name else "weight"
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    }
    return {name: weight for name, weight in network.named_parameters() if name in owners}


class Stand:
    """Other values stand in for the weights until they are put back, bit for bit.

    Example:
        >>> layer, stand = nn.Linear(1, 1), Stand()
        >>> before = layer.weight.item()
        >>> stand.put({"weight": layer.weight}, {"weight": torch.ones(1, 1)})
        >>> layer.weight.item()
        1.0
        >>> stand.back()
        >>> layer.weight.item() == before
        True
    """

    def __init__(self) -> None:
        self._kept: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def put(self, weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        """Put `values` in the place of `weights`; nothing happens if some already stand there."""
        if self._kept:
            return
        for name, value in values.items():
            weight = weights[name]
            self._kept.append((weight, weight.detach().clone()))
            weight.copy_(value)

    @torch.no_grad()
    def back(self) -> None:
        """Put the weights back."""
        for weight, value in self._kept:
            weight.copy_(value)
        self._kept.clear()
