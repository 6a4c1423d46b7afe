"""The loop of `hemp_reader.cosines`."""

from __future__ import annotations

import numpy as np

from hemp_reader.numba_tools import jit

LANES = 64
"""Kernels that are turned side by side, one in each lane of the vector unit."""


@jit
def turn(entries, extents, tables, out):  # type: ignore[no-untyped-def]
    """Sums of products along each axis of kernels, in the order of the places.

    A product and a sum are rounded one after the other: without `fastmath` they stay apart.

    Args:
        entries: Kernels, float32 or float64 `(N, K)`.
        extents: Of the axes of a kernel, int64; their product is K.
        tables: float64, the table of each axis, row by row, one after the other.
        out: float32 `(N, K)`.
    """
    size = entries.shape[1]
    held, turned = np.zeros((size, LANES)), np.zeros((size, LANES))
    for start in range(0, entries.shape[0], LANES):
        count = min(LANES, entries.shape[0] - start)
        for place in range(size):
            for lane in range(count):
                held[place, lane] = entries[start + lane, place]
        inner, first = size, 0
        for extent in extents:
            inner //= extent
            for target in range(size):
                n = target // inner % extent
                begin = target - n * inner
                factor = tables[first + n]
                for lane in range(LANES):
                    turned[target, lane] = factor * held[begin, lane]
                for k in range(1, extent):
                    factor = tables[first + k * extent + n]
                    source = begin + k * inner
                    for lane in range(LANES):
                        turned[target, lane] += factor * held[source, lane]
            held, turned = turned, held
            first += extent * extent
        for place in range(size):
            for lane in range(count):
                out[start + lane, place] = held[place, lane]
