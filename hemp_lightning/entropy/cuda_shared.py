"""The histogram of `cuda` in shared memory, for tables that fit there; written in Triton's Gluon.

A program counts `TUPLES` tuples in a table of its own and adds that to the one of all. Shared
memory adds 32-bit integers natively and wider numbers in a loop, so that a mass is split in two
digits, each of which a program can add up without overflow. Where tables are small there are
several copies, one per bank, so that tuples at zero do not queue for one cell.

Raises:
    ImportError: On import, if Triton's shared memory cannot be added to (before 3.8).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from hemp_lightning.entropy import cuda_parts
from hemp_lightning.entropy.tables import Layout

if not hasattr(getattr(gl, "shared_memory_descriptor", None), "atomic_scatter_add"):
    raise ImportError(f"Triton {triton.__version__} cannot add to shared memory")

THREADS = 256
ROUNDS = 32
TUPLES = THREADS * ROUNDS
"""Tuples of a program."""

DIGIT = 17
"""Bits of the lower digit of a mass; `TUPLES` times either digit fit 31 bits."""

SHIFT = 2 * DIGIT
"""Masses are whole numbers of `2^-SHIFT`."""

CELLS = 8192
"""Cells in all copies of a program's table, 8 bytes each: three programs fit a core of an H100."""

CONSTANTS = {"CELLS": CELLS, "THREADS": THREADS, "ROUNDS": ROUNDS, "DIGIT": DIGIT}

BANKS = 32

MAX_ORDER = 4
"""Longer tuples have too many corners for a loop that is unrolled over them."""

_row = gluon.jit(cuda_parts.row.fn)
_locate = gluon.jit(cuda_parts.locate.fn)


def fits(layout: Layout) -> bool:
    """Whether `accumulate` is made for `layout`: tables fit, and tuples are not too long."""
    return layout.order <= MAX_ORDER and max(layout.table_levels) ** layout.order <= CELLS


def copies(layout: Layout) -> int:
    """Copies of a table that a program keeps, a power of two."""
    return min(BANKS, 1 << (CELLS // max(layout.table_levels) ** layout.order).bit_length() - 1)


# One binary for all sizes, as in `cuda`.
@gluon.jit(do_not_specialize=["unit", "copies", "steps"])
def accumulate(  # type: ignore[no-untyped-def]
    weights, levels, sums, fractions, bases, blocks, segments, unit, copies, steps,
    ORDER: tl.constexpr, CELLS: tl.constexpr, THREADS: tl.constexpr, ROUNDS: tl.constexpr,
    DIGIT: tl.constexpr,
):  # fmt: skip
    """Locate the weights of `THREADS * ROUNDS` tuples, add their corner products to the table."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [THREADS // 32], [0])
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    zeros = gl.full([CELLS], 0, gl.int32, layout)
    upper = gl.allocate_shared_memory(gl.int32, [CELLS], flat, zeros)
    lower = gl.allocate_shared_memory(gl.int32, [CELLS], flat, zeros)
    gl.barrier()
    start, count, first_level, num_levels, first, table, table_levels = _row(blocks, segments)
    levels += first_level
    bases += first
    begin = gl.load(blocks + 2 * gl.program_id(0) + 1)
    thread = gl.arange(0, THREADS, layout=layout)
    copy = thread & (copies - 1)
    for step in range(ROUNDS):
        tuples = begin + step * THREADS + thread  # (THREADS,)
        inside = tuples < count
        base = gl.full([THREADS], 0, gl.int64, layout)
        places = ()
        for j in gl.static_range(ORDER):
            place = start + tuples * ORDER + j
            weight = gl.load(weights + place, mask=inside, other=0.0)
            low, fraction = _locate(weight, levels, num_levels, steps)
            gl.store(fractions + place, fraction, mask=inside)
            share = gl.minimum(gl.maximum(fraction, 0.0), 1.0)
            places = places + (share,)  # type: ignore[assignment]  # noqa: RUF005
            base = base * table_levels + low
        gl.store(bases + tuples, base, mask=inside)
        for corner in gl.static_range(1 << ORDER):
            product = gl.full([THREADS], 1.0, weights.dtype.element_ty, layout)
            cell = base
            stride = gl.where(table_levels > 1, 1, 0)  # a single level: no mass at its upper corner
            for j in gl.static_range(ORDER - 1, -1, -1):
                if (corner >> j) & 1:
                    product *= places[j]
                    cell += stride
                else:
                    product *= 1.0 - places[j]
                stride *= table_levels
            slot = (cell * copies + copy).to(gl.int32)
            mass = (product * unit + 0.5).to(gl.int64)
            counts = inside & (mass > 0)
            upper.atomic_scatter_add((mass >> DIGIT).to(gl.int32), slot, 0, counts)
            lower.atomic_scatter_add((mass & ((1 << DIGIT) - 1)).to(gl.int32), slot, 0, counts)
    gl.barrier()
    num_cells = gl.full([], 1, gl.int64)
    for _ in gl.static_range(ORDER):
        num_cells *= table_levels
    for chunk in range(0, num_cells, THREADS):
        cell = chunk + thread
        mass = gl.full([THREADS], 0, gl.int64, layout)
        for number in range(copies):
            slot = gl.minimum(cell * copies + number, CELLS - 1).to(gl.int32)
            mass += (upper.gather(slot, 0).to(gl.int64) << DIGIT) + lower.gather(slot, 0)
        used = (cell < num_cells) & (mass > 0)  # never beyond the table, whatever was gathered
        gl.atomic_add(sums + table + cell, mass, mask=used, sem="relaxed")


def launch(programs: int, *arguments: Any, layout: Layout, steps: int) -> None:
    """Run `accumulate` with its `arguments` up to `unit`."""
    accumulate[(programs,)](
        *arguments,
        copies(layout),
        steps,
        ORDER=layout.order,
        **CONSTANTS,
        num_warps=THREADS // 32,
    )
