"""Which network and which of its tensors the baselines work on."""

from __future__ import annotations

from lightning import LightningModule
from torch import nn

from hemp_lightning.quantization.selection import select_tensors


def network_of(pl_module: LightningModule) -> nn.Module:
    """The network that a LightningModule trains: its attribute `network`, else itself."""
    network = getattr(pl_module, "network", pl_module)
    return network if isinstance(network, nn.Module) else pl_module


def weights_of(pl_module: LightningModule) -> dict[str, nn.Parameter]:
    """The weights of the network that a LightningModule trains, by name; shared ones once."""
    return select_tensors(network_of(pl_module), "weights")
