"""How far entries may move in a network with BatchNorm.

A BatchNorm divides by the deviation of its channel, which is close to 0 where a channel is dead or
nearly so. What it divides, its mean and the bias of the layer before it, must not move by much of
that: a move that is small beside the other channels would come out as large as all they say.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hemp_lightning.file.format.steps import TOLERANCE
from hemp_lightning.file.state import Entry

_MEAN, _VARIANCE = "running_mean", "running_var"
_EPSILON = 1e-5  # what torch's norms add to a variance unless they are told otherwise


class Norms:
    """The BatchNorm layers of a state_dict, found by the names of their statistics.

    Args:
        entries: All of its entries.

    Example:
        >>> state = {"0.bias": torch.ones(2), "1.running_mean": torch.ones(2)}
        >>> state["1.running_var"] = torch.tensor([1.0, 0.0])
        >>> norms = Norms([Entry(name, tensor, None) for name, tensor in state.items()])
        >>> norms.limits("1.running_mean", state["1.running_mean"])
        tensor([3.1250e-02, 9.8821e-05], dtype=torch.float64)
    """

    def __init__(self, entries: list[Entry]) -> None:
        self._variances = {
            prefix: entry
            for prefix, leaf, entry in ((*_split(entry.name), entry) for entry in entries)
            if leaf == _VARIANCE
        }

    def limits(self, name: str, tensor: Tensor) -> Tensor | None:
        """The most that each entry may move, whatever the others of its tensor are like.

        Args:
            name: Its key in the state_dict.
            tensor: Its values, float32, at most one axis.

        Returns:
            Of means, a part of the deviations of their channels; of what is in no norm and so may
            lead into one, a part of what the deviation is of a dead channel; of weights and biases
            of norms, see `own_limits`. float64, of the shape of `tensor`. None where only the
            others count, and in a network without BatchNorm.
        """
        prefix, leaf = _split(name)
        if not self._variances:
            return None
        if prefix not in self._variances:
            return torch.full_like(tensor, math.sqrt(_EPSILON) / TOLERANCE, dtype=torch.float64)
        if leaf == _VARIANCE:
            return None
        if leaf != _MEAN:
            return own_limits(tensor)
        variance = self._variances[prefix].values().double()
        if variance.shape != tensor.shape:
            return None
        return torch.sqrt(variance.clamp_min(0) + _EPSILON) / TOLERANCE


def own_limits(tensor: Tensor) -> Tensor:
    """A part of each entry and of the median one: one of a size of its own sets no steps for all.

    Args:
        tensor: float32, at least one entry.

    Returns:
        float64, of the shape of `tensor`.

    Example:
        >>> own_limits(torch.tensor([-1.0, 0.0, 31.0]))
        tensor([0.0625, 0.0312, 1.0000], dtype=torch.float64)
    """
    sizes = tensor.double().abs()
    return (sizes + sizes.median()) / TOLERANCE


def _split(name: str) -> tuple[str, str]:
    prefix, _, leaf = name.rpartition(".")
    return prefix, leaf
