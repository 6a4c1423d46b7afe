"""The loops of `dense`: tables with a place for every cell."""

from __future__ import annotations

import numpy as np

from hemp_lightning.entropy.corners import (
    add_corners,
    contract_corners,
    lowest_cell,
    tuple_places,
    write_gradient,
)
from hemp_lightning.entropy.locating import locate
from hemp_reader.numba_tools import fused, jit

BLOCK = 128
"""Tuples that are located before they are counted."""


@jit
def accumulate(  # type: ignore[no-untyped-def]
    weights,
    cells,
    fractions,
    begin,
    end,
    levels,
    above,
    inverse,
    buckets,
    steps,
    strides,
    table,
):
    """Locate weights and add the corner products of their tuples to a table."""
    order = len(steps)
    numbers = np.empty(BLOCK * order, np.int32)
    one = fractions.dtype.type(1)
    for start in range(begin, end, BLOCK):
        these = slice(start * order, min(start + BLOCK, end) * order)
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
        for t in range(start, min(start + BLOCK, end)):
            cell = lowest_cell(cells, t * order, steps)
            places = tuple_places(fractions, t * order, steps)
            add_corners(table, cell, one, places, strides)


@fused
def gradient(  # type: ignore[no-untyped-def]
    cells, fractions, begin, end, inverse, steps, strides, logs
):
    """Replace the fractions of tuples by their gradient."""
    order = len(steps)
    for t in range(begin, end):
        cell = lowest_cell(cells, t * order, steps)
        places = tuple_places(fractions, t * order, steps)
        found = contract_corners(logs, cell, places, strides)
        write_gradient(cells, fractions, t * order, inverse, found[1:])
