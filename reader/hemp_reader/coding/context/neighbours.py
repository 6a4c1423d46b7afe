"""The contexts of a difference: what stands near it, and where it is.

Differences are numbered in scan order: number t stands in row `a` at column `c`, and at position
`k` of its kernel. FORMAT.md has the table of the contexts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hemp_reader.coding.context.model_tables import class_of, log_class
from hemp_reader.coding.context.sizes import DEGREES, MAX_KERNEL, MIN_LINE, TUPLE_CYCLE
from hemp_reader.numba_tools import embedded, jit

NUM_INPUTS = 8
LINE_INPUTS = 6  # from this input on: rows and columns


class Geometry(NamedTuple):
    """How the differences lie.

    Attributes:
        rows: Number of rows.
        row: Differences in a row.
        inner: Differences in a kernel, 1 without one.
        last: Length of the kernel's last axis, 1 without one.
        below: What is added to the differences that are stored.
        shift: log2 of the magnitude that counts as large.
        frequencies: 1 if places of a kernel are frequencies, else 0.
    """

    rows: int
    row: int
    inner: int
    last: int
    below: int
    shift: int
    frequencies: int


@jit
def num_contexts(i, geometry):  # type: ignore[no-untyped-def]
    """How many contexts input `i` tells apart."""
    rows, row = geometry.rows, geometry.row
    if i == 0:
        return 1
    if i == 1:
        return 48
    if i == 2:
        return 4 * MAX_KERNEL
    if i == 3 or i == 4:
        return 125
    if i == 5:
        return min(geometry.inner, MAX_KERNEL) * 25 if geometry.frequencies else TUPLE_CYCLE * 15
    if i == 6:
        return row if rows >= MIN_LINE else 1
    return (rows if row >= MIN_LINE else 1) * (DEGREES if geometry.frequencies else 1)


@embedded
def find_contexts(values, u, t, a, c, geometry, contexts):  # type: ignore[no-untyped-def]
    """Put the number of each input's context in `contexts`, `(NUM_INPUTS,)`.

    Args:
        values: Differences plus `below`, behind their border.
        u: Where in `values` the difference stands.
        t: Its number in scan order.
        a: Its row.
        c: Its column.
        geometry: How the differences lie.
        contexts: Is filled.
    """
    rows, row, inner, last, below, shift, frequencies = geometry
    scale = 1 << shift
    k = c % inner
    left, left2 = values[u - 1] - below, values[u - 2] - below
    up = values[u - row] - below
    left_class, up_class = class_of(left, scale), class_of(up, scale)
    if inner > 1:
        over = values[u - last] - below if k >= last else np.int64(0)
        over_next = np.int64(0)  # also where it is the one to code
        if k >= last and last > 1:
            over_next = values[u - last + 1] - below
        before_class = class_of(values[u - inner] - below, scale)
        near = 2 * abs(left) + abs(left2) + 2 * abs(over)
        contexts[3] = (left_class * 5 + class_of(over, scale)) * 5 + before_class
        contexts[4] = (up_class * 5 + before_class) * 5 + class_of(over_next, scale)
    else:
        up2 = values[u - 2 * row] - below
        up_next = values[u - row + 1] - below if row > 1 else np.int64(0)
        near = 2 * abs(left) + abs(left2) + abs(values[u - 3] - below)
        contexts[3] = (left_class * 5 + up_class) * 5 + class_of(left2, scale)
        contexts[4] = (up_class * 5 + class_of(up2, scale)) * 5 + class_of(up_next, scale)
    contexts[0] = 0
    contexts[1] = log_class(near)
    contexts[2] = min(k, MAX_KERNEL - 1) * 4 + min(abs(left) >> shift, 3)
    contexts[5] = ((t % TUPLE_CYCLE) * 5 + left_class) * 3 + min(abs(left2) >> shift, 2)
    contexts[6] = c if rows >= MIN_LINE else 0
    contexts[7] = a if row >= MIN_LINE else 0
    if frequencies:
        along = k // last
        across = k - along * last
        across2 = class_of(values[u - 2] - below if across >= 2 else np.int64(0), scale)
        along2 = class_of(values[u - 2 * last] - below if k >= 2 * last else np.int64(0), scale)
        lowest = class_of(values[u - k] - below if k > 0 else np.int64(0), scale)
        contexts[3] = (across2 * 5 + along2) * 5 + lowest
        contexts[5] = (min(k, MAX_KERNEL - 1) * 5 + across2) * 5 + along2
        contexts[7] = contexts[7] * DEGREES + min(along + across, DEGREES - 1)
