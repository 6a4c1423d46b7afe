"""Cells that know their price: which level a weight takes, by its error and what it costs."""

from __future__ import annotations

import numpy as np

from hemp_lightning.coding.coder import gather, index_dtype
from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.quantization.thresholds import PRICE, priced_indices

CELLS = ("auto", "nearest", "priced")
"""`nearest`: the cells of the codebook; `auto`: `priced` for grids of `UniformQuantizer`."""

PRICED_CODERS = ("context", "fast")
"""Coders whose lengths the context model tells."""

_MAX_LEVELS = 256
_PIECE = 2**24  # lengths in memory at a time


def assign_priced(
    values: np.ndarray, levels: np.ndarray, indices: np.ndarray, passes: int = 2
) -> np.ndarray:
    """Indices of least `(value - level)^2 + PRICE * step^2 * length`.

    Lengths are those of the context coder, given the indices so far; each pass takes them anew.
    The step is the least distance of two levels.

    Args:
        values: Weights or coefficients, float32, any shape.
        levels: float32 `(num_levels,)`, strictly ascending.
        indices: Where to start from, of the shape of `values`.
        passes: How many passes.

    Returns:
        Of the dtype `index_dtype(num_levels)`; `indices` themselves with more than 256 levels,
        and where all values are levels already.

    Example:
        >>> values = np.float32([0.0] * 99 + [0.6])
        >>> int(assign_priced(values, np.float32([0, 1]), np.array([0] * 99 + [1]))[-1])
        0
    """
    num_levels = len(levels)
    if not 1 < num_levels <= _MAX_LEVELS or not values.ndim:
        return indices
    if np.array_equal(gather(levels, indices.reshape(-1)), values.reshape(-1)):
        return indices
    price = PRICE * float(np.diff(levels.astype(np.float64)).min()) ** 2
    coder = ContextCoder()
    row = max(1, values[0].size * num_levels)
    count = max(1, _PIECE // row)
    found = np.empty(values.shape, index_dtype(num_levels))
    for start in range(0, len(values), count):
        piece = slice(start, start + count)
        own = indices[piece]
        for _ in range(passes):
            lengths = coder.lengths(own, num_levels)
            own = priced_indices(values[piece], levels, lengths, price)
        found[piece] = own
    return found
