"""Cells of levels that cost something besides the error they make."""

from __future__ import annotations

import math

import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)

PRICE = math.log(2) / 6
"""Price of a bit in squared steps of a uniform grid: the slope of its distortion at high rates.

There the distortion is `step^2 / 12` and falls by a factor of 4 with each bit.
"""

_PIECE = 2**20  # lengths that are weighed at a time


def cheapest_cells(levels: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Thresholds between cells in which `(w - level)^2 + cost` is least.

    The cell of a level that is nowhere the cheapest is empty: the thresholds on its two sides are
    one, that of the levels around it which have cells.

    Args:
        levels: float64 `(num_levels,)`, strictly ascending.
        costs: float64 `(num_levels,)`, in squares of the unit of the levels; a constant added to
            all of them changes nothing.

    Returns:
        float64 `(num_levels - 1,)`, ascending, within the range of float32.

    Source:
        P. Chou, T. Lookabaugh, R. Gray, *Entropy-constrained vector quantization*, IEEE Trans.
        ASSP 37 (1989), for the cost; the cells are those of a lower envelope, see A. Andrew,
        *Another efficient algorithm for convex hulls in two dimensions*, IPL 9 (1979).

    Example:
        >>> cheapest_cells(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 0.0]))
        array([0.75, 1.25])
        >>> cheapest_cells(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 0.0]))
        array([1., 1.])
    """
    thresholds = _equal(levels[:-1], levels[1:], costs[:-1], costs[1:])
    if (np.diff(thresholds) < 0).any():
        thresholds = _envelope(levels, costs)
    return np.clip(thresholds, -FLOAT32_MAX, FLOAT32_MAX)


def priced_indices(
    weights: np.ndarray, levels: np.ndarray, lengths: np.ndarray, price: float
) -> np.ndarray:
    """For each weight the index where `(w - level)^2 + price * length` is least.

    Of several the lowest index; `price` 0 gives the nearest levels.

    Args:
        weights: float32, any shape.
        levels: float32 `(num_levels,)`, strictly ascending.
        lengths: Bits that each level costs in the place of each weight, float32: shape of
            `weights` and a last axis of `num_levels`.
        price: Of a bit, in squares of the unit of the weights, at least 0; for a uniform grid
            `PRICE * step ** 2`.

    Returns:
        int64, of the shape of `weights`.

    Raises:
        ValueError: If the shapes do not agree.

    Example:
        >>> lengths = np.float32([[0.1, 4.0], [0.1, 4.0]])
        >>> priced_indices(np.float32([0.6, 0.9]), np.float32([0, 1]), lengths, price=0.1)
        array([0, 1])
    """
    if lengths.shape != (*weights.shape, len(levels)):
        raise ValueError(
            f"`lengths` must have shape {(*weights.shape, len(levels))}; found {lengths.shape}"
        )
    flat, table = weights.reshape(-1), lengths.reshape(-1, len(levels))
    best = np.empty(flat.shape, np.int64)
    count = max(1, _PIECE // len(levels))
    for start in range(0, len(flat), count):
        piece = slice(start, start + count)
        costs = np.subtract(flat[piece, None], levels, dtype=np.float64)
        np.square(costs, out=costs)
        costs += np.multiply(table[piece], price, dtype=np.float64)
        best[piece] = costs.argmin(1)
    return best.reshape(weights.shape)


def _envelope(levels: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Thresholds where some levels are nowhere the cheapest."""
    kept, starts = [0], [-np.inf]  # levels with cells so far, and where these cells begin
    for level in range(1, len(levels)):
        while True:
            last = kept[-1]
            start = float(_equal(levels[last], levels[level], costs[last], costs[level]))
            if start > starts[-1]:
                break
            kept.pop()
            starts.pop()
        kept.append(level)
        starts.append(start)
    # a level without a cell begins where the next one that has one does
    return np.array(starts)[np.searchsorted(kept, np.arange(1, len(levels)))]


def _equal(
    low: np.ndarray, high: np.ndarray, low_cost: np.ndarray, high_cost: np.ndarray
) -> np.ndarray:
    """Where two levels cost the same."""
    return (low + high) / 2 + (high_cost - low_cost) / (2 * (high - low))
