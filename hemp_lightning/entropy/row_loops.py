"""The loops of `rows`: tables of which two rows exist at a time."""

from __future__ import annotations

import numpy as np

from hemp_lightning.entropy.corners import (
    add_marked_corners,
    contract_corners,
    increase_tuple,
    load_tuple,
    lowest_cell,
    scale_tuple,
    store_tuple,
    tuple_places,
    weigh_corner,
    write_gradient,
)
from hemp_lightning.entropy.logarithms import LINE, finish_line
from hemp_reader.numba_tools import fused, jit


@jit
def count_buckets_of(cells, order, steps, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` the tuples in each bucket, those whose leading weights share their cells."""
    for t in range(cells.shape[0] // order):
        counts[lowest_cell(cells, t * order, steps)] += 1


@jit
def sort_tuples(  # type: ignore[no-untyped-def]
    cells, fractions, leading, steps, heads, places, numbers, listed
):
    """Put the records of tuples into their buckets, and list where each went; `heads` move on.

    A record has the places of the weights, and then, in `numbers`, the same memory as integers, the
    cell within a row of the weights that follow the leading ones.
    """
    order = len(leading) + len(steps)  # a constant where this is compiled
    lead, size = len(leading), order + 1
    for t in range(cells.shape[0] // order):
        bucket = lowest_cell(cells, t * order, leading)
        target = heads[bucket]
        heads[bucket] = target + 1
        listed[t] = target
        found = tuple_places(fractions, t * order, leading + steps)
        for j in range(order):
            places[target * size + j] = found[j]
        numbers[target * size + order] = lowest_cell(cells, t * order + lead, steps)


@fused
def rows(  # type: ignore[no-untyped-def]
    places,
    numbers,
    begins,
    strips,
    num_rows,
    shifts,
    leading,
    strides,
    masses,
    logs,
    slopes,
    with_gradient,
):
    """Count sorted tuples two rows of the table at a time; see `rows.count_rows`.

    Two rows are next to each other in the index of the last leading weight. Those that differ in
    it alone make a strip. A strip is touched by the tuples of `2^(len(leading) - 1)` buckets a row,
    one for each corner of the other leading weights: `shifts` from the number of a row to theirs.
    `masses` has room for two rows, and is 0 before and after. Returns the sum of mass * log2 mass,
    and adds to `slopes` those of it.
    """
    outer, order = leading[1:], len(leading) - 1 + len(strides)
    size, one, corners = order + 1, places.dtype.type(1), shifts.shape[0]
    pitch = masses.shape[0] // 2
    lines = pitch // LINE
    marks = np.zeros(2 * lines, np.uint8)
    sums = np.zeros(LINE)
    for strip in range(strips):
        for row in range(num_rows):
            this = row & 1  # the half of `masses` that the row has
            low, jump = this * pitch, (1 - 2 * this) * pitch
            for corner in range(corners):
                bucket = strip * num_rows + row + shifts[corner]
                for t in range(begins[bucket], begins[bucket + 1]):
                    first = t * size
                    weight = weigh_corner(load_tuple(places, first, outer), corner, one)[0]
                    inner = load_tuple(places, first + len(outer), strides)
                    cell = low + np.int64(numbers[first + order])
                    add_marked_corners(masses, cell, weight, inner, (jump,) + strides[1:], marks)  # noqa: RUF005
            for line in range(this * lines, this * lines + lines):
                if marks[line]:
                    marks[line] = 0
                    finish_line(masses, line * LINE, LINE, logs, sums, one)
                    masses[line * LINE : line * LINE + LINE] = 0
            for corner in range(corners if with_gradient and row else 0):
                bucket = strip * num_rows + row - 1 + shifts[corner]
                for t in range(begins[bucket], begins[bucket + 1]):
                    first = t * size
                    weights = weigh_corner(load_tuple(places, first, outer), corner, one)
                    inner = load_tuple(places, first + len(outer), strides)
                    cell = low + jump + np.int64(numbers[first + order])
                    means = contract_corners(logs, cell, inner, (-jump,) + strides[1:])  # noqa: RUF005
                    found_slopes = scale_tuple(weights[1:], means[0]) + scale_tuple(
                        means[1:], weights[0]
                    )
                    if corner == 0:
                        store_tuple(slopes, t * order, found_slopes)
                    else:
                        increase_tuple(slopes, t * order, found_slopes)
    return sums.sum()


@jit
def spread(  # type: ignore[no-untyped-def]
    cells, fractions, inverse, steps, listed, slopes
):
    """Replace the fractions of tuples by their gradient, whose slopes are sorted."""
    order = len(steps)
    for t in range(listed.shape[0]):
        found = load_tuple(slopes, listed[t] * order, steps)
        write_gradient(cells, fractions, t * order, inverse, found)
