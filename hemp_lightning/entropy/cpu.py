"""Soft entropy and its gradient on the CPU, compiled with numba.

Two passes over the weights: the first finds each weight's cell and its place between two levels and
adds the `2^n` corner products of each tuple to the table; the second contracts the logarithms of
the table with all but one factor of each product. Tuples are dealt to a number of partial tables
that depends on the sizes alone and the parts are added in order, so the result is the same on any
number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.entropy import cpu_loops as loops
from hemp_lightning.entropy import sparse_loops
from hemp_lightning.entropy.tables import UNROLLED_ORDER, Layout
from hemp_lightning.ground.numba_tools import IS_COMPILED
from hemp_lightning.ground.threads import PART, run_jobs
from hemp_lightning.quantization import assign
from hemp_lightning.quantization.sorted_weights import BucketedWeights

BUCKETS = 2048
MAX_PARTS = 8
DENSE_CELLS = 1 << 19
"""Cells of a table that is worth keeping whole: beyond, most of it is outside the caches."""


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
    problem = _Problem([tensor.numpy() for tensor in weights], layout, scale)
    passes = {"dense": problem.dense, "rows": problem.rows, "sparse": problem.sparse}
    bits = passes[layout.kind(DENSE_CELLS)](with_gradients) + problem.left_over(with_gradients)
    found = [torch.from_numpy(part) for part in problem.fractions] if with_gradients else []
    return torch.tensor(bits, dtype=torch.float64), found


class _Problem:
    """One evaluation: the arrays that its passes share, an entry per segment."""

    def __init__(self, weights: list[np.ndarray], layout: Layout, scale: float) -> None:
        self.weights = weights
        self.layout = layout
        self.dtype = weights[0].dtype
        few = max(layout.table_levels) <= 256
        # One piece of memory: numpy asks the system for large pages where it is large enough.
        total = sum(map(len, weights))
        memory = np.empty(total * (self.dtype.itemsize + (1 if few else 2)), np.uint8)
        fractions, cells = np.split(memory, [total * self.dtype.itemsize])
        ends = np.cumsum([len(part) for part in weights])[:-1]
        # The place of each weight in its cell, and in the last pass its gradient instead.
        self.fractions = np.split(fractions.view(self.dtype), ends)
        self.cells = np.split(cells.view(np.uint8 if few else np.uint16), ends)
        self.totals = layout.table_tuples()
        self.levels, self.above, self.inverses, self.scaled, self.buckets = [], [], [], [], []
        infinity = self.dtype.type(np.inf)
        for entry in layout.levels:
            levels = entry.numpy().astype(self.dtype)
            gaps = np.diff(levels)
            self.inverses.append(1 / gaps if len(gaps) else np.zeros_like(levels))
            self.scaled.append(self.inverses[-1] * self.dtype.type(scale))
            if len(levels) == 1:  # a cell that no weight leaves: its inverse gap is 0
                levels = np.append(levels, levels + max(1, abs(levels[0])))
            self.levels.append(levels)
            self.above.append(np.append(levels[1:-1], infinity))  # where the next cell begins
            self.buckets.append(np.empty(BUCKETS + 1, np.uint16))
            loops.fill_buckets(levels, self.buckets[-1])
        self.steps = [layout.steps(count) for count in layout.table_levels]
        # the upper corner of a single level has no mass; it stays within the table
        self.strides = [
            steps if count > 1 else (0,) * layout.order
            for steps, count in zip(self.steps, layout.table_levels, strict=True)
        ]

    def view(self, arrays: list[np.ndarray], segment: int) -> np.ndarray:
        """The whole tuples of a segment."""
        return arrays[segment][: self.layout.tuples[segment] * self.layout.order]

    def dense(self, with_gradient: bool) -> float:
        """Tables with a place for every cell."""
        layout = self.layout
        cells = [count**layout.order for count in layout.table_levels]
        parts: list[int] = [0] * len(cells)
        jobs: list[tuple[int, int, int, int]] = []  # segment, first and last tuple, part
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
        starts = np.concatenate(
            [[0], np.cumsum([p * c for p, c in zip(parts, cells, strict=True)])]
        )
        sums = np.zeros(starts[-1])

        def accumulate(job: tuple[int, int, int, int]) -> None:
            segment, begin, end, part = job
            table = layout.tables[segment]
            first = starts[table] + part * cells[table]
            loops.accumulate(
                self.view(self.weights, segment),
                self.view(self.cells, segment),
                self.view(self.fractions, segment),
                begin,
                end,
                self.levels[segment],
                self.above[segment],
                self.inverses[segment],
                self.buckets[segment],
                self.steps[table],
                self.strides[table],
                sums[first : first + cells[table]],
            )

        def gradient(job: tuple[int, int, int, int]) -> None:
            segment, begin, end, _ = job
            table = layout.tables[segment]
            loops.gradient(
                self.view(self.cells, segment),
                self.view(self.fractions, segment),
                begin,
                end,
                self.scaled[segment],
                self.steps[table],
                self.strides[table],
                logs[table],
            )

        # Jobs that share a part run one after the other on the same thread.
        run_jobs(accumulate, _by_part(jobs, layout))
        bits = 0.0
        logs = []
        for table, count in enumerate(cells):
            logs.append(np.empty(count, self.dtype))
            mass = sums[starts[table] : starts[table + 1]]
            bits -= loops.finish(mass, parts[table], count, logs[table])
            bits += _total(self.totals[table])
        if with_gradient:
            run_jobs(gradient, [[job] for job in jobs])
        return bits

    def locate(self, segment: int) -> None:
        """Cells and fractions of a segment, in a pass of their own."""
        loops.locate_all(
            self.view(self.weights, segment),
            self.levels[segment],
            self.above[segment],
            self.inverses[segment],
            self.buckets[segment],
            self.view(self.cells, segment),
            self.view(self.fractions, segment),
        )

    def left_over(self, with_gradient: bool) -> float:
        """Weights that fill no tuple, counted one by one in tables of their own."""
        layout = self.layout
        parts = []
        totals = [0] * len(layout.table_levels)
        for segment, table in enumerate(layout.tables):
            begin, end = layout.tuples[segment] * layout.order, len(self.weights[segment])
            if begin < end:
                parts.append((segment, table, slice(begin, end)))
                totals[table] += end - begin
        tables = {table: np.zeros(layout.table_levels[table]) for _, table, _ in parts}
        for segment, table, these in parts:
            loops.accumulate(
                self.weights[segment][these],
                self.cells[segment][these],
                self.fractions[segment][these],
                0,
                these.stop - these.start,
                self.levels[segment],
                self.above[segment],
                self.inverses[segment],
                self.buckets[segment],
                (1,),
                (1 if layout.table_levels[table] > 1 else 0,),
                tables[table],
            )
        bits = 0.0
        logs = {}
        for table, masses in tables.items():
            logs[table] = np.empty(len(masses), self.dtype)
            bits += _total(totals[table]) - loops.finish(masses, 1, len(masses), logs[table])
        for segment, table, these in parts if with_gradient else []:
            loops.gradient(
                self.cells[segment][these],
                self.fractions[segment][these],
                0,
                these.stop - these.start,
                self.scaled[segment],
                (1,),
                (1 if layout.table_levels[table] > 1 else 0,),
                logs[table],
            )
        return bits

    def rows(self, with_gradient: bool) -> float:
        """Tables two rows at a time: cells that share the indices of their leading weights.

        Tuples are sorted by the cells of their leading weights. A row is touched by those in a few
        neighbouring buckets: it is filled, turned into logarithms where something was added, and
        contracted, while it stays in a near cache. No more than two rows exist at any time.
        """
        jobs = [[(table, 0, count, 0)] for table, count in enumerate(self.totals)]
        bits = [0.0] * len(jobs)

        def run(job: tuple[int, int, int, int]) -> None:
            bits[job[0]] = self.rows_of(job[0], with_gradient)

        run_jobs(run, jobs)
        return sum(bits)

    def rows_of(self, table: int, with_gradient: bool) -> float:
        """One table of `rows`."""
        layout, order = self.layout, self.layout.order
        num_levels, tuples = layout.table_levels[table], self.totals[table]
        lead = layout.lead(num_levels)
        inner = num_levels ** (order - lead)
        leading = tuple(step // inner for step in self.steps[table][:lead])
        steps = self.steps[table][lead:]
        segments = [s for s, t in enumerate(layout.tables) if t == table]
        counts = np.zeros(num_levels**lead, np.int64)
        for segment in segments:
            self.locate(segment)
            loops.count_buckets_of(self.view(self.cells, segment), order, leading, counts)
        shifts = np.zeros(1, np.int64)
        for stride in leading[:-1]:  # one corner of those weights after the other
            shifts = np.concatenate([shifts, shifts + stride])
        # as many empty buckets in front as the corners of the first row reach for
        begins = np.concatenate([np.zeros(shifts[-1] + 1, np.int64), np.cumsum(counts)])
        heads = begins[shifts[-1] : -1].copy()
        # one piece of memory, which numpy asks the system for in large pages
        places, slopes, rest = np.split(
            np.empty(tuples * (2 * order + 2), self.dtype),
            tuples * np.array([order + 1, 2 * order + 1]),
        )
        integer = np.int32 if self.dtype == np.float32 else np.int64
        numbers = places.view(integer)
        ends = np.cumsum([layout.tuples[segment] for segment in segments])
        listed = np.split(rest.view(integer), ends[:-1])
        for segment, found in zip(segments, listed, strict=True):
            views = self.view(self.cells, segment), self.view(self.fractions, segment)
            loops.sort_tuples(*views, leading, steps, heads, places, numbers, found)
        pitch = -(-inner // loops.LINE) * loops.LINE
        bits = loops.rows(
            places,
            numbers,
            begins,
            num_levels ** (lead - 1),
            num_levels,
            shifts[-1] - shifts,
            leading,
            (pitch, *self.strides[table][lead:]),
            np.zeros(2 * pitch),
            np.empty(2 * pitch, self.dtype),
            slopes,
            with_gradient,
        )
        for segment, found in zip(segments, listed, strict=True) if with_gradient else ():
            views = self.view(self.cells, segment), self.view(self.fractions, segment)
            loops.spread(*views, self.scaled[segment], self.steps[table], found, slopes)
        return _total(tuples) - bits

    def sparse(self, with_gradient: bool) -> float:
        """Tables that hold only the cells in use."""
        layout = self.layout
        tables = [
            (np.full(1024 << layout.order, -1, np.int64), np.zeros(1024 << layout.order), 0)
            for _ in layout.table_levels
        ]
        offsets = [np.array(layout.corner_offsets(count)) for count in layout.table_levels]
        for segment, table in enumerate(layout.tables):
            self.locate(segment)
            cells, fractions = (self.view(a, segment) for a in (self.cells, self.fractions))
            tables[table] = sparse_loops.accumulate(
                cells,
                fractions,
                layout.tuples[segment],
                layout.order,
                layout.table_levels[table],
                offsets[table],
                *tables[table],
            )
        bits = 0.0
        logs = []
        for table, (_, masses, _) in enumerate(tables):
            logs.append(np.empty(len(masses)))
            bits -= loops.finish(masses, 1, len(masses), logs[table])
            bits += _total(self.totals[table])
        for segment, table in enumerate(layout.tables if with_gradient else []):
            sparse_loops.gradient(
                self.view(self.cells, segment),
                self.view(self.fractions, segment),
                layout.tuples[segment],
                layout.order,
                self.scaled[segment],
                layout.table_levels[table],
                offsets[table],
                tables[table][0],
                logs[table],
            )
        return bits


def warm_up(order: int, dtype: torch.dtype = torch.float32) -> None:
    """Compile the passes for `order` (or load them from numba's cache) before they are needed."""
    weights = torch.linspace(-1, 1, 4 * order + 1, dtype=dtype)
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    layout = Layout.of([len(weights)], [levels], order, False)
    problem = _Problem([weights.numpy()], layout, 1.0)
    if IS_COMPILED and order <= UNROLLED_ORDER:
        problem.dense(True)
        problem.rows(True)
    if IS_COMPILED:
        problem.sparse(True)
        problem.left_over(True)
    assign.quantize(
        weights.float(), torch.tensor([-0.5, 0.5]), levels.float(), weights.float().clone()
    )
    BucketedWeights(weights.float()).sums_up_to(np.array([order]))
    BucketedWeights(weights.float()).borders(np.zeros(1, np.float32))


def _total(tuples: int) -> float:
    return tuples * float(np.log2(max(tuples, 1)))


def _by_part(jobs: list[tuple[int, int, int, int]], layout: Layout) -> list[list[Any]]:
    groups: dict[tuple[int, int], list[Any]] = {}
    for job in jobs:
        groups.setdefault((layout.tables[job[0]], job[3]), []).append(job)
    return list(groups.values())
