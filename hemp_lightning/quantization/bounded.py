"""As many levels as keep the error of a tensor below a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hemp_lightning.quantization.codebook import MAX_LEVELS, Codebook
from hemp_lightning.quantization.quantizers import QUANTIZERS, few_distinct, get_quantizer

MAX_ERROR = 0.005
"""Relative error that networks bear without training: that of weights in about nine bits."""

_LEAST_LEVELS = 16
_CHUNK = 2**20  # entries at a time
_DISTINCT = 256  # values that levels stand for exactly
_FEW = 64  # weights of a channel whose errors do not average out: depthwise convolutions
_SILENT = 1e-3  # a channel below this share of the largest one says nothing
_MARGIN = 1.02  # a little more levels than the last error asks for


@dataclass(frozen=True)
class BoundedQuantizer:
    """Another quantizer, with as many levels as keep the relative error below a bound.

    The bound holds for the whole tensor and for the root mean square over its channels (the first
    axis), so that channels of small weights keep their digits too: those of depthwise
    convolutions differ by orders of magnitude. With fewer than 64 weights a channel, as they have,
    half of the bound holds. A tensor of few different values, as one that was quantized before,
    keeps them exactly. Levels are float16 where the bound allows it.

    Args:
        max_error: Bound on `||w - q|| / ||w||`, above 0.
        quantizer: A name of `QUANTIZERS`.
        num_levels: The most levels; with fewer than the bound needs, the error is larger.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> weights = torch.linspace(-1, 1, 1001)
        >>> [BoundedQuantizer(bound).fit(weights).num_levels for bound in (0.05, 0.01)]
        [24, 117]
    """

    max_error: float = MAX_ERROR
    quantizer: str = "uniform"
    num_levels: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.max_error < 1:
            raise ValueError(f"`max_error` must lie between 0 and 1; found {self.max_error}")
        if self.quantizer not in QUANTIZERS:
            raise ValueError(
                f"`quantizer` must be one of {', '.join(QUANTIZERS)}; found {self.quantizer!r}"
            )
        if not 2 <= self.num_levels <= MAX_LEVELS:
            raise ValueError(
                f"`num_levels` must be from 2 to {MAX_LEVELS}; found {self.num_levels}"
            )

    def fit(self, weights: Tensor, init: Codebook | None = None) -> Codebook:
        """Fit to `weights`; `init` is not needed and ignored. See `Quantizer.fit`."""
        distinct = few_distinct(weights.detach().reshape(-1).float(), _DISTINCT)
        if distinct is not None and 4 * len(distinct) <= weights.numel():
            return Codebook(distinct)
        few = weights.ndim > 2 and weights[0].numel() < _FEW
        bound = self.max_error / 2 if few else self.max_error
        num_levels = min(_LEAST_LEVELS, self.num_levels)
        while True:
            codebook = get_quantizer(self.quantizer, num_levels).fit(weights)
            error = self._error(weights, codebook)
            if error <= bound or num_levels == self.num_levels:
                break
            wanted = math.ceil(min(error / bound, 64.0) * _MARGIN * num_levels)
            num_levels = min(max(wanted, num_levels + 1), self.num_levels)
        short = torch.unique(codebook.levels.half().float())
        if torch.isfinite(short).all():
            rounded = Codebook(short)
            if self._error(weights, rounded) <= max(bound, error):
                return rounded
        return codebook

    def _error(self, weights: Tensor, codebook: Codebook) -> float:
        quantized = codebook.quantize(weights)
        return max(relative_error(weights, quantized), channel_error(weights, quantized))


def relative_error(tensor: Tensor, other: Tensor) -> float:
    """`||tensor - other|| / ||tensor||`, over the entries that are finite.

    Args:
        tensor: Any shape and dtype.
        other: What stands for it, of the same shape.

    Returns:
        0 where both are the same; infinity where only `tensor` is 0.

    Example:
        >>> relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5]))
        0.1
    """
    size, off = squared_error(tensor.detach().reshape(-1), other.detach().reshape(-1))
    return math.sqrt(off / size) if size else (math.inf if off else 0.0)


def squared_error(tensor: Tensor, other: Tensor) -> tuple[float, float]:
    """Sums of squares of `tensor` and of `tensor - other`, over the entries that are finite.

    Args:
        tensor: Flat, any dtype; what is neither floating nor complex counts as 0.
        other: Of the same shape.

    Example:
        >>> squared_error(torch.tensor([3.0, 4.0, math.inf]), torch.tensor([3.0, 3.5, math.inf]))
        (25.0, 0.25)
    """
    size = off = 0.0
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return size, off
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    for start in range(0, len(tensor), _CHUNK):  # in float64 a large tensor is twice as large
        wanted = tensor[start : start + _CHUNK].to(wide)
        apart = wanted - other[start : start + _CHUNK].to(wide)
        finite = torch.isfinite(wanted)
        size += float(wanted[finite].abs().square().sum())
        off += float(apart[finite].abs().square().sum())
    return size, off


def channel_error(weights: Tensor, quantized: Tensor) -> float:
    """Root mean square over channels, the first axis, of the relative error of each.

    Channels that say next to nothing beside the largest one do not count.

    Args:
        weights: Floating, finite, any shape.
        quantized: Of the same shape.

    Returns:
        0 for a tensor without channels: less than two axes, or all entries 0.

    Example:
        >>> weights = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
        >>> round(channel_error(weights, torch.tensor([[3.0, 4.0], [0.0, 0.4]])), 4)
        0.1414
    """
    if weights.ndim < 2:
        return 0.0
    sizes = weights.detach().float().flatten(1).norm(dim=1)
    errors = (weights.detach().float() - quantized.float()).flatten(1).norm(dim=1)
    heard = sizes > _SILENT * sizes.max()
    if not heard.any():
        return 0.0
    return float((errors[heard] / sizes[heard]).double().square().mean().sqrt())
