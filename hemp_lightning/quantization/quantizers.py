"""Quantizers: from the weights of a tensor to the codebook that stands for them.

A quantizer looks at weights once and answers with a `Codebook`. Nothing here trains, and nothing
here codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.quantization.codebook import MAX_LEVELS, Codebook
from hemp_lightning.quantization.sorted_weights import BucketedWeights, SortedWeights, sort_weights
from hemp_lightning.quantization.thresholds import FLOAT32_MAX, cheapest_cells

PRICE_STEPS = 16
"""Steps in which a first fit raises the price of a bit."""


@runtime_checkable
class Quantizer(Protocol):
    """Anything that fits a codebook to weights."""

    @property
    def num_levels(self) -> int:
        """The most levels of a codebook."""
        ...

    def fit(self, weights: Tensor, init: Codebook | None = None) -> Codebook:
        """Fit a codebook of at most `num_levels` levels.

        Args:
            weights: Any shape with at least one entry, floating, finite.
            init: Codebook to start from; its levels that no weight uses drop out.
        """
        ...


@dataclass(frozen=True)
class UniformQuantizer:
    """Equidistant levels that span the weights.

    Args:
        num_levels: The most levels, at least 2.
        keep_zero: Shift the grid so that one level is exactly 0, if 0 lies among the weights.
        symmetric: Span `[-max|w|, max|w|]`.

    Raises:
        ValueError: If `num_levels` is out of range.

    Example:
        >>> UniformQuantizer(5).fit(torch.tensor([-1.0, -0.2, 0.3, 1.0])).levels
        tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000])
    """

    num_levels: int
    keep_zero: bool = True
    symmetric: bool = False

    def __post_init__(self) -> None:
        _check_num_levels(self.num_levels)

    def fit(self, weights: Tensor, init: Codebook | None = None) -> Codebook:
        """Fit to `weights`; `init` is not needed and ignored. See `Quantizer.fit`."""
        flat = _flat(weights)
        ends = torch.aminmax(flat)
        _check_finite(flat, *ends)
        low, high = (float(end) for end in ends)
        if low == high:
            return Codebook(flat[:1])
        if self.symmetric:
            high = max(-low, high)
            low = -high
        steps = self.num_levels - 1
        below = steps * -low / (high - low)  # how many steps of the grid lie below zero
        step = (high - low) / steps
        if self.keep_zero and low <= 0.0 <= high:
            whole = min(max(round(below), int(low < 0)), steps - int(high > 0))
            if whole in (0, steps):
                step = max(-low, high) / steps
            else:
                step = max(-low / whole, high / (steps - whole))
            levels = (np.arange(self.num_levels) - whole) * step
        else:
            levels = low + np.arange(self.num_levels) * step
        levels = np.unique(np.clip(levels, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32))
        return Codebook(torch.from_numpy(levels).to(flat.device))


@dataclass(frozen=True)
class LloydMaxQuantizer:
    """Levels of least mean squared error: each the mean of its cell, each border a midpoint.

    Lloyd's iteration runs on the weights in order, sorted only where a border falls, with prefix
    sums, so that a round costs little, and ends where no weight changes its cell. An empty cell is
    re-seeded at the weight farthest from its level; on a refit (`init`) it drops out. A first fit
    starts from levels spread by the density and from the even grid, and keeps the better end.

    Source: S. Lloyd, *Least squares quantization in PCM*, IEEE Trans. Inf. Theory 28 (1982),
    method I; J. Max, *Quantizing for minimum distortion*, IRE Trans. Inf. Theory 6 (1960).

    Args:
        num_levels: The most levels, at least 2. Fewer come back where the weights have fewer
            distinct values.
        keep_zero: Hold one level at exactly 0, if 0 lies among the weights.
        max_iterations: Upper bound on the rounds.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> codebook = LloydMaxQuantizer(2).fit(torch.tensor([1.0, 2.0, 3.0, 10.0, 12.0]))
        >>> codebook.levels, codebook.thresholds
        (tensor([ 2., 11.]), tensor([6.5000]))
    """

    num_levels: int
    keep_zero: bool = True
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        _check_num_levels(self.num_levels)
        _check_positive("max_iterations", self.max_iterations)

    def fit(self, weights: Tensor, init: Codebook | None = None) -> Codebook:
        """Fit to `weights`. See `Quantizer.fit`."""
        return _fit_sorted(weights, init, self.num_levels, self.keep_zero, self.max_iterations, 0.0)


@dataclass(frozen=True)
class EntropyConstrainedQuantizer:
    """Lloyd-Max with a price on bits: least `D / var(w) + lambda_rate * H_1`.

    A weight takes the level of least distortion plus `lambda_rate` times the bits of that level,
    so that borders shift towards the rarer of two levels; a level that loses its mass drops out.
    A first fit pays the full price at once, and again from 0 upwards in steps, and keeps what costs
    less: at once, where weights stand in clusters, all levels but one can lose theirs.

    Source: P. Chou, T. Lookabaugh, R. Gray, *Entropy-constrained vector quantization*, IEEE Trans.
    ASSP 37 (1989).

    Args:
        num_levels: The most levels, at least 2.
        lambda_rate: Price of a bit per weight, in units of the variance of the weights, >= 0;
            0 is Lloyd-Max.
        keep_zero: Hold one level at exactly 0, if 0 lies among the weights.
        max_iterations: Upper bound on the rounds.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> weights = torch.linspace(-1, 1, 101) ** 3
        >>> EntropyConstrainedQuantizer(9, lambda_rate=0.1).fit(weights).num_levels
        5
    """

    num_levels: int
    lambda_rate: float = 0.01
    keep_zero: bool = True
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        _check_num_levels(self.num_levels)
        _check_positive("max_iterations", self.max_iterations)
        if not 0 <= self.lambda_rate < float("inf"):
            raise ValueError(f"`lambda_rate` must be finite and >= 0; found {self.lambda_rate}")

    def fit(self, weights: Tensor, init: Codebook | None = None) -> Codebook:
        """Fit to `weights`. See `Quantizer.fit`."""
        return _fit_sorted(
            weights, init, self.num_levels, self.keep_zero, self.max_iterations, self.lambda_rate
        )


QUANTIZERS = {
    "uniform": UniformQuantizer,
    "lloyd_max": LloydMaxQuantizer,
    "entropy_constrained": EntropyConstrainedQuantizer,
}
"""Quantizer classes by name."""


def get_quantizer(quantizer: str | Quantizer, num_levels: int = 16) -> Quantizer:
    """The quantizer of that name with `num_levels` levels; a quantizer object comes back as it is.

    Raises:
        ValueError: If the name is unknown or `num_levels` out of range.
        TypeError: If `quantizer` is neither a name nor a quantizer.

    Example:
        >>> get_quantizer("uniform", 4)
        UniformQuantizer(num_levels=4, keep_zero=True, symmetric=False)
    """
    if isinstance(quantizer, str):
        if quantizer not in QUANTIZERS:
            raise ValueError(
                f"`quantizer` must be one of {', '.join(QUANTIZERS)} or an object with "
                f"`fit(weights)`; found {quantizer!r}"
            )
        return QUANTIZERS[quantizer](num_levels)
    if not isinstance(quantizer, Quantizer):
        raise TypeError(
            f"`quantizer` must be one of {', '.join(QUANTIZERS)} or an object with "
            f"`num_levels` and `fit(weights)`; found {type(quantizer).__name__}"
        )
    return quantizer


def _check_num_levels(num_levels: int) -> None:
    if isinstance(num_levels, bool) or not isinstance(num_levels, int):
        raise TypeError(f"`num_levels` must be an integer; found {num_levels!r}")
    if not 2 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"`num_levels` must be from 2 to {MAX_LEVELS}; found {num_levels}")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1; found {value}")


def _flat(weights: Tensor) -> Tensor:
    """The weights as a flat float32 tensor with at least one entry."""
    if not weights.is_floating_point():
        raise TypeError(f"`weights` must be a floating tensor; found {weights.dtype}")
    flat = weights.detach().reshape(-1).float()
    if not flat.numel():
        raise ValueError("`weights` must have at least one entry; found none")
    return flat


def _check_finite(flat: Tensor, *ends: Tensor) -> None:
    """Raise if the ends of the range of `flat` are not finite; NaN counts as an end."""
    if not all(torch.isfinite(end) for end in ends):
        bad = int((~torch.isfinite(flat)).sum())
        raise ValueError(
            f"`weights` must be finite; found {bad} of {flat.numel()} entries NaN or infinite"
        )


def _fit_sorted(
    weights: Tensor,
    init: Codebook | None,
    num_levels: int,
    keep_zero: bool,
    max_iterations: int,
    lambda_rate: float,
) -> Codebook:
    """Lloyd's iteration for `D / var + lambda_rate * bits` on the weights in order."""
    flat = _flat(weights)
    ends = torch.aminmax(flat)
    _check_finite(flat, *ends)
    low, high = (float(end) for end in ends)
    distinct = few_distinct(flat, num_levels)
    if distinct is not None and lambda_rate == 0:
        return Codebook(distinct)
    ordered = sort_weights(flat)
    zero = keep_zero and low <= 0.0 <= high
    # A few numbers from here on: everything but the search and the sums lives on the CPU.
    price = lambda_rate * float(flat.double().var(correction=0)) if lambda_rate else 0.0
    if init is not None:
        levels = init.levels.double().cpu().numpy()[:num_levels]
    else:
        levels = (
            distinct.double().cpu().numpy()
            if distinct is not None
            else _start(ordered, low, high, num_levels)
        )
    if zero:
        levels = _with_zero(levels)
    ways = [(levels, [price])]
    if price and init is None:
        ways.append((levels, [price * step / PRICE_STEPS for step in range(PRICE_STEPS + 1)]))
    elif init is None:
        # with many levels for few weights, or heavy tails, the even grid leads to a better optimum
        grid = UniformQuantizer(num_levels, keep_zero=zero).fit(flat).levels
        ways.append((grid.double().cpu().numpy(), [price]))
    reseeds = num_levels if init is None else 0
    found = [_descend(ordered, *way, zero, reseeds, max_iterations) for way in ways]
    _, levels, bits = min(found, key=lambda one: one[0])
    # float32 may merge two levels that float64 holds apart
    kept = np.unique(levels.astype(np.float32), return_index=True)[1]
    levels, bits = levels[kept], bits[kept]
    device = flat.device
    thresholds = torch.from_numpy(cheapest_cells(levels, price * bits).astype(np.float32))
    return Codebook(torch.from_numpy(levels.astype(np.float32)).to(device), thresholds.to(device))


def _descend(
    ordered: BucketedWeights | SortedWeights,
    levels: np.ndarray,
    prices: Sequence[float],
    zero: bool,
    reseeds: int,
    max_iterations: int,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Levels and their bits where no weight changes its cell, at one price of bits after the other.

    Returns:
        What they cost, but for a constant: the sum of `(w - c)^2 - w^2 + price * bits`.
    """
    bits, cost = np.zeros(len(levels)), 0.0
    for price in prices:
        for _ in range(max_iterations):
            borders = _borders(ordered, cheapest_cells(levels, price * bits))
            counts = np.diff(borders)
            unused = (counts == 0) & ~(zero & (levels == 0))
            if unused.any():
                levels, bits = levels[~unused], bits[~unused]
                if reseeds and not price:
                    reseeds -= 1
                    levels = _reseed(ordered, levels)
                    bits = np.zeros(len(levels))
                continue
            totals = np.diff(ordered.sums_up_to(borders))
            means = np.divide(totals, counts, out=np.zeros_like(totals), where=counts > 0)
            # one huge weight leaves a sum no digits for the small ones
            means = np.where(counts > 0, np.clip(means, *_ends(ordered, borders)), means)
            if zero:
                means[levels == 0] = 0.0
            new_bits = -np.log2(np.maximum(counts, 1) / len(ordered)) if price else bits
            cost = float((means * (means * counts - 2 * totals) + price * new_bits * counts).sum())
            if np.array_equal(means, levels) and np.array_equal(new_bits, bits):
                break
            # a mean may fall on the level at 0, or behind it where that has an expensive cell
            levels, kept = np.unique(means, return_index=True)
            bits = new_bits[kept]
    return cost, levels, bits


def _borders(ordered: BucketedWeights | SortedWeights, thresholds: np.ndarray) -> np.ndarray:
    """Cell borders as positions in ascending order, int64 `(num_levels + 1,)`."""
    inner = ordered.borders(thresholds.astype(np.float32))
    return np.concatenate([[0], inner, [len(ordered)]])


def _ends(
    ordered: BucketedWeights | SortedWeights, borders: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest weight of each cell; of an empty one, of whatever lies next to it."""
    first = ordered.at(np.minimum(borders[:-1], len(ordered) - 1))
    return first, ordered.at(np.maximum(borders[1:] - 1, 0))


def few_distinct(flat: Tensor, num_levels: int) -> Tensor | None:
    """The distinct values if there are at most `num_levels` of them, else None."""
    # Most tensors show more within a small sample; only then is the whole worth a pass.
    sample = flat[:: max(1, len(flat) // (64 * num_levels))]
    if len(torch.unique(sample)) > num_levels:
        return None
    distinct = torch.unique(flat)
    return distinct if len(distinct) <= num_levels else None


def _start(
    ordered: BucketedWeights | SortedWeights, low: float, high: float, num_levels: int
) -> np.ndarray:
    """Levels spread like the cube root of the density, the optimum for many levels.

    Source: P. Panter, W. Dite, *Quantization distortion in pulse-count modulation with nonuniform
    spacing of levels*, Proc. IRE 39 (1951).
    """
    edges = np.linspace(low, high, 64 * num_levels + 1)
    counts = np.diff(_borders(ordered, edges[1:-1]))
    mass = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    wanted = (np.arange(num_levels) + 0.5) / num_levels * mass[-1]
    return np.unique(np.interp(wanted, mass, edges))


def _with_zero(levels: np.ndarray) -> np.ndarray:
    """The levels with the one nearest to 0 moved there."""
    levels = levels.copy()
    levels[np.argmin(np.abs(levels))] = 0.0
    return levels


def _reseed(ordered: BucketedWeights | SortedWeights, levels: np.ndarray) -> np.ndarray:
    """One more level, at the weight that is farthest from its own."""
    borders = _borders(ordered, cheapest_cells(levels, np.zeros(len(levels))))
    used = np.diff(borders) > 0
    values = np.stack(_ends(ordered, borders))[:, used]
    distances = np.abs(values - levels[used])
    return np.unique(np.append(levels, values.flat[np.argmax(distances)]))
