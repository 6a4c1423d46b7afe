"""Soft entropy and its gradient on the CPU, compiled with numba.

Two passes over the weights: the first finds each weight's cell and its place between two levels and
adds the `2^n` corner products of each tuple to the table; the second contracts the logarithms of
the table with all but one factor of each product. There are three ways to keep a table: `dense`,
`rows` and `sparse`, each with loops of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.entropy.dense import count_dense, count_left_over
from hemp_lightning.entropy.evaluation import Arrays
from hemp_lightning.entropy.rows import count_rows
from hemp_lightning.entropy.sparse import count_sparse
from hemp_lightning.entropy.tables import UNROLLED_ORDER, Layout
from hemp_lightning.quantization import assign
from hemp_lightning.quantization.sorted_weights import BucketedWeights
from hemp_reader.numba_tools import IS_COMPILED

DENSE_CELLS = 1 << 19
"""Cells of a table that is worth keeping whole: beyond, most of it is outside the caches."""

_PASSES = {"dense": count_dense, "rows": count_rows, "sparse": count_sparse}


def bits_and_gradients(
    weights: Sequence[Tensor], layout: Layout, with_gradients: bool, scale: float = 1.0
) -> tuple[Tensor, list[Tensor]]:
    """Bits of all tuples, left-over weights among them, and their gradient.

    Args:
        weights: Those of each segment, float32 or float64 `(size,)`, contiguous, on the CPU.
        layout: Their tuples and tables.
        with_gradients: If False no gradients come back.
        scale: Factor of the gradients, here and not in a pass of its own.

    Returns:
        Bits, float64 scalar; a gradient of each segment, of its dtype, `(size,)`.
        It is computed in that dtype: float32 logarithms of up to 30 bits hold it to about 1e-6
        bits.
    """
    arrays = Arrays([tensor.numpy() for tensor in weights], layout, scale)
    bits = _PASSES[layout.kind(DENSE_CELLS)](arrays, with_gradients)
    bits += count_left_over(arrays, with_gradients)
    found = [torch.from_numpy(part) for part in arrays.fractions] if with_gradients else []
    return torch.tensor(bits, dtype=torch.float64), found


def warm_up(order: int, dtype: torch.dtype = torch.float32) -> None:
    """Compile the passes for `order` (or load them from numba's cache) before they are needed."""
    weights = torch.linspace(-1, 1, 4 * order + 1, dtype=dtype)
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    layout = Layout.of([len(weights)], [levels], order, False)
    arrays = Arrays([weights.numpy()], layout, 1.0)
    if IS_COMPILED and order <= UNROLLED_ORDER:
        count_dense(arrays, True)
        count_rows(arrays, True)
    if IS_COMPILED:
        count_sparse(arrays, True)
        count_left_over(arrays, True)
    assign.quantize(
        weights.float(), torch.tensor([-0.5, 0.5]), levels.float(), weights.float().clone()
    )
    BucketedWeights(weights.float()).sums_up_to(np.array([order]))
    BucketedWeights(weights.float()).borders(np.zeros(1, np.float32))
