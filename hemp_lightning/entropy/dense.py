"""Tables with a place for every cell.

Tuples are dealt to a number of partial tables that depends on the sizes alone and the parts are
added in order, so the result is the same on any number of threads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from hemp_lightning.entropy import dense_loops as loops
from hemp_lightning.entropy.evaluation import Arrays, total_bits
from hemp_lightning.entropy.logarithms import finish
from hemp_lightning.entropy.tables import Layout
from hemp_lightning.ground.threads import PART, run_jobs

MAX_PARTS = 8


def count_dense(arrays: Arrays, with_gradient: bool) -> float:
    """Tables with a place for every cell."""
    layout = arrays.layout
    cells = [count**layout.order for count in layout.table_levels]
    jobs, parts = _deal(layout, cells)
    starts = np.concatenate([[0], np.cumsum([p * c for p, c in zip(parts, cells, strict=True)])])
    sums = np.zeros(starts[-1])

    def accumulate(job: tuple[int, int, int, int]) -> None:
        segment, begin, end, part = job
        table = layout.tables[segment]
        first = starts[table] + part * cells[table]
        loops.accumulate(
            arrays.view(arrays.weights, segment),
            arrays.view(arrays.cells, segment),
            arrays.view(arrays.fractions, segment),
            begin,
            end,
            arrays.levels[segment],
            arrays.above[segment],
            arrays.inverses[segment],
            arrays.buckets[segment],
            arrays.steps[table],
            arrays.strides[table],
            sums[first : first + cells[table]],
        )

    def gradient(job: tuple[int, int, int, int]) -> None:
        segment, begin, end, _ = job
        table = layout.tables[segment]
        loops.gradient(
            arrays.view(arrays.cells, segment),
            arrays.view(arrays.fractions, segment),
            begin,
            end,
            arrays.scaled[segment],
            arrays.steps[table],
            arrays.strides[table],
            logs[table],
        )

    # Jobs that share a part run one after the other on the same thread.
    run_jobs(accumulate, _by_part(jobs, layout))
    bits = 0.0
    logs = []
    for table, count in enumerate(cells):
        logs.append(np.empty(count, arrays.dtype))
        mass = sums[starts[table] : starts[table + 1]]
        bits -= finish(mass, parts[table], count, logs[table])
        bits += arrays.total_bits(table)
    if with_gradient:
        run_jobs(gradient, [[job] for job in jobs])
    return bits


def count_left_over(arrays: Arrays, with_gradient: bool) -> float:
    """Weights that fill no tuple, counted one by one in tables of their own."""
    layout = arrays.layout
    parts = []
    totals = [0] * len(layout.table_levels)
    for segment, table in enumerate(layout.tables):
        begin, end = layout.tuples[segment] * layout.order, len(arrays.weights[segment])
        if begin < end:
            parts.append((segment, table, slice(begin, end)))
            totals[table] += end - begin
    tables = {table: np.zeros(layout.table_levels[table]) for _, table, _ in parts}
    for segment, table, these in parts:
        loops.accumulate(
            arrays.weights[segment][these],
            arrays.cells[segment][these],
            arrays.fractions[segment][these],
            0,
            these.stop - these.start,
            arrays.levels[segment],
            arrays.above[segment],
            arrays.inverses[segment],
            arrays.buckets[segment],
            (1,),
            (1 if layout.table_levels[table] > 1 else 0,),
            tables[table],
        )
    bits = 0.0
    logs = {}
    for table, masses in tables.items():
        logs[table] = np.empty(len(masses), arrays.dtype)
        bits += total_bits(totals[table]) - finish(masses, 1, len(masses), logs[table])
    for segment, table, these in parts if with_gradient else []:
        loops.gradient(
            arrays.cells[segment][these],
            arrays.fractions[segment][these],
            0,
            these.stop - these.start,
            arrays.scaled[segment],
            (1,),
            (1 if layout.table_levels[table] > 1 else 0,),
            logs[table],
        )
    return bits


def _deal(layout: Layout, cells: list[int]) -> tuple[list[tuple[int, int, int, int]], list[int]]:
    """Jobs (segment, first and last tuple, part of its table), and the parts of each table."""
    parts = [0] * len(cells)
    jobs = []
    for segment, (count, table) in enumerate(zip(layout.tuples, layout.tables, strict=True)):
        wanted = min(MAX_PARTS, count // max(PART, cells[table])) if count else 0
        bounds = np.linspace(0, count, max(wanted, 1) + 1).astype(int)
        pooled = parts[table] > 0 and wanted <= 1
        for begin, end in pairwise(bounds):
            if pooled:
                jobs.append((segment, int(begin), int(end), 0))
            else:
                jobs.append((segment, int(begin), int(end), parts[table]))
                parts[table] += 1
    return jobs, parts


def _by_part(jobs: list[tuple[int, int, int, int]], layout: Layout) -> list[list[Any]]:
    groups: dict[tuple[int, int], list[Any]] = {}
    for job in jobs:
        groups.setdefault((layout.tables[job[0]], job[3]), []).append(job)
    return list(groups.values())
