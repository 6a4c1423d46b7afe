"""Structured pruning: whole filters and hidden units set to 0, with their biases and norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hemp_lightning.suite.baselines.pruning import MagnitudePruning, largest
from hemp_lightning.suite.baselines.weights import network_of

SCORES = ("norm", "scale")


@dataclass(frozen=True)
class Filters:
    """The filters of a layer: entries of the first axis of its weight.

    Attributes:
        names: Names of the parameters with one entry a filter on their first axis.
        weight: `(filters, ...)`.
        scale: Scale of the norm behind, `(filters,)`; None without one.
    """

    names: tuple[str, ...]
    weight: Tensor
    scale: Tensor | None


def filters_of(network: nn.Module) -> list[Filters]:
    """The layers whose filters may be pruned: all but the last one, whose units are the answer.

    The norm of a layer is the BatchNorm right behind it in the order of definition, if it has as
    many channels.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
        >>> [layer.names for layer in filters_of(net)]
        [('0.weight', '0.bias', '1.weight', '1.bias')]
    """
    parts = [(name, part) for name, part in network.named_modules() if not list(part.children())]
    parts = [(n, p) for n, p in parts if isinstance(p, (_ConvNd, nn.Linear, _BatchNorm))]
    layers = [place for place, (_, part) in enumerate(parts) if not isinstance(part, _BatchNorm)]
    found = []
    for place in layers[:-1]:
        name, layer = parts[place]
        weight = layer.get_parameter("weight")
        if isinstance(layer, _ConvTransposeNd) or len(weight) == 1:
            continue
        names = [f"{name}.{leaf}" for leaf, _ in layer.named_parameters()]
        scale = None
        behind_name, behind = parts[place + 1]
        if isinstance(behind, _BatchNorm) and behind.num_features == len(weight) and behind.affine:
            names += [f"{behind_name}.{leaf}" for leaf, _ in behind.named_parameters()]
            scale = behind.weight.detach()
        found.append(Filters(tuple(names), weight.detach(), scale))
    return found


def filter_masks(
    network: nn.Module, share: float, score: str = "norm", scope: str = "tensor"
) -> dict[str, Tensor]:
    """Masks that drop a share of the filters, those that say least.

    Args:
        network: Any module; it is not changed.
        share: Share of the filters to drop; every layer keeps one at least.
        score: `norm`: root of the mean square of a filter's weights; `scale`: size of the scale of
            the norm behind it, where there is one, else as `norm`.
        scope: `tensor` ranks the filters of each layer, `network` those of all layers together.

    Returns:
        For each parameter of these filters a bool tensor of its shape, True where an entry stays.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0], [-1.0]]))
        >>> filter_masks(net, 0.5)["0.bias"]
        tensor([ True, False])
    """
    layers = filters_of(network)
    scores = [_scores(layer, score) for layer in layers]
    if scope == "tensor":
        kept = [largest(values, share) for values in scores]
    else:
        kept = list(largest(torch.cat(scores), share).split([len(v) for v in scores]))
    parameters = dict(network.named_parameters())
    masks = {}
    for layer, values, keep in zip(layers, scores, kept, strict=True):
        keep = keep.clone()
        keep[values.argmax()] = True
        for name in layer.names:
            shape = parameters[name].shape
            masks[name] = keep.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).clone()
    return masks


class FilterPruning(MagnitudePruning):
    """Drop whole filters, those of least norm or least scale, at once or gradually.

    A filter goes with its bias and with what the norm behind it does to its channel: its output is
    0 then. `reorder_units` leaves out of the file what listens to it.

    Sources: Li et al., Pruning filters for efficient convnets, ICLR 2017 (norms); Liu et al.,
    Learning efficient convolutional networks through network slimming, ICCV 2017 (scales).

    Args:
        share: Share of the filters to drop.
        score: `norm` or `scale`, see `filter_masks`.
        scope: `tensor` ranks the filters of each layer, `network` those of all layers together.
        start_epoch: See `MagnitudePruning`.
        end_epoch: See `MagnitudePruning`.
        every_n_steps: See `MagnitudePruning`.
        name: What the results call it.
    """

    def __init__(
        self,
        share: float = 0.5,
        score: str = "norm",
        scope: str = "tensor",
        start_epoch: int = 0,
        end_epoch: int | None = None,
        every_n_steps: int = 50,
        name: str = "filters",
    ) -> None:
        super().__init__(share, scope, start_epoch, end_epoch, every_n_steps, name)
        if score not in SCORES:
            raise ValueError(f"`pruning.score`: expected one of {SCORES}; found {score!r}")
        self.score = score

    def masks_for(self, pl_module: LightningModule, share: float) -> dict[str, Tensor]:
        """See `filter_masks`."""
        return filter_masks(network_of(pl_module), share, self.score, self.scope)


def _scores(layer: Filters, score: str) -> Tensor:
    """A number a filter, `(filters,)`."""
    if score == "scale" and layer.scale is not None:
        return layer.scale.abs()
    return layer.weight.flatten(1).square().mean(1).sqrt()
