"""Cells that know their price: which level a weight takes, by its error and what it costs."""

from __future__ import annotations

import numpy as np

from hemp_lightning.coding.context.frequency_coder import context_coder
from hemp_lightning.quantization.thresholds import PRICE
from hemp_reader.coding.indices import gather

CELLS = ("auto", "nearest", "priced")
"""`nearest`: the cells of the codebook; `auto`: `priced` for grids of `UniformQuantizer`."""

PRICED_CODERS = ("context", "fast", "frequency")
"""Coders whose lengths the context model tells."""

_MAX_LEVELS = 256


def assign_priced(
    values: np.ndarray, levels: np.ndarray, indices: np.ndarray, transform: str = "none"
) -> np.ndarray:
    """Indices of least `(value - level)^2 + PRICE * step^2 * length`.

    Lengths are those of the context coder, see `ContextCoder.priced`. The step is the least
    distance of two levels.

    Args:
        values: Weights or coefficients, float32, any shape.
        levels: float32 `(num_levels,)`, strictly ascending.
        indices: Of the nearest levels, of the shape of `values`.
        transform: What made the values of the weights.

    Returns:
        Of the dtype `index_dtype(num_levels)`; `indices` themselves with more than 256 levels,
        and where all values are levels already.

    Example:
        >>> values = np.float32([0.0] * 99 + [0.6])
        >>> int(assign_priced(values, np.float32([0, 1]), np.array([0] * 99 + [1]))[-1])
        0
    """
    if not 1 < len(levels) <= _MAX_LEVELS:
        return indices
    if np.array_equal(gather(levels, indices.reshape(-1)), values.reshape(-1)):
        return indices
    price = PRICE * float(np.diff(levels.astype(np.float64)).min()) ** 2
    return context_coder(transform).priced(indices, values, levels, price)
