"""Which cell a weight is in, and where in it, compiled."""

from __future__ import annotations

import numpy as np

from hemp_reader.numba_tools import inlined, jit

BLOCK = 1024
"""Weights that are located at a time, so that their buckets stay in a near cache."""


@jit
def fill_buckets(levels, buckets):  # type: ignore[no-untyped-def]
    """For each bucket of the range, a cell at or just below that of its lowest weight."""
    last = levels.shape[0] - 2
    count = buckets.shape[0] - 1
    step = (np.float64(levels[last + 1]) - np.float64(levels[0])) / count
    cell = 0
    for bucket in range(count + 1):
        low = levels[0] + (bucket - 1) * step  # one bucket of margin against rounding
        while cell < last and levels[cell + 1] <= low:
            cell += 1
        buckets[bucket] = cell


@inlined
def _number(weights, levels, buckets, numbers):  # type: ignore[no-untyped-def]
    """Bucket of each weight."""
    real = weights.dtype.type
    lowest = levels[0]
    top = real(buckets.shape[0] - 1)
    scale = real(top / (np.float64(levels[-1]) - np.float64(lowest)))
    zero = real(0)
    for p in range(weights.shape[0]):  # a loop of its own, which the compiler vectorises
        number = (weights[p] - lowest) * scale
        number = number if number > zero else zero  # NaN too
        numbers[p] = np.int32(number if number < top else top)


@inlined
def _cell(weight, number, above, buckets):  # type: ignore[no-untyped-def]
    """Cell of a weight in the bucket of that number."""
    cell = np.uint64(buckets[np.uint64(number)])
    while weight >= above[cell]:
        cell += np.uint64(1)
    return cell


@inlined
def locate(  # type: ignore[no-untyped-def]
    weights, levels, above, inverse, buckets, numbers, cells, fractions
):
    """Cell of each weight and its place in it: below 0 or at least 1 outside the levels."""
    _number(weights, levels, buckets, numbers)
    for p in range(weights.shape[0]):
        cell = _cell(weights[p], numbers[p], above, buckets)
        cells[p] = cell
        fractions[p] = (weights[p] - levels[cell]) * inverse[cell]


@jit
def locate_all(  # type: ignore[no-untyped-def]
    weights, levels, above, inverse, buckets, cells, fractions
):
    """`locate` for any number of weights."""
    numbers = np.empty(BLOCK, np.int32)
    for start in range(0, weights.shape[0], BLOCK):
        these = slice(start, start + BLOCK)
        locate(
            weights[these],
            levels,
            above,
            inverse,
            buckets,
            numbers,
            cells[these],
            fractions[these],
        )
