"""Cells of levels that cost something besides the error they make."""

from __future__ import annotations

import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)


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
