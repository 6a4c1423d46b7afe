"""Soft entropy and its gradient on the CPU, compiled with numba.

Two passes over the weights: the first finds each weight's cell and its place between two levels and
adds the `2^n` corner products of each tuple to the table; the second contracts the logarithms of
the table with all but one factor of each product. Tuples are dealt to a number of partial tables
that depends on the sizes alone and the parts are added in order, so the result is the same on any
number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hemp_lightning.kernels.layout import Layout, inverse_gaps

BUCKETS = 512
PART = 1 << 15  # fewest tuples worth a partial table of their own
MAX_PARTS = 8

_jit: Any = partial(njit, nogil=True, cache=True)
_inlined: Any = njit(inline="always")


class Kernels(NamedTuple):
    """Compiled passes for one order."""

    accumulate: Callable[..., None]
    gradient: Callable[..., None]
    accumulate_sparse: Callable[..., Any]
    gradient_sparse: Callable[..., None]


@_jit
def _fill_buckets(levels, buckets):  # type: ignore[no-untyped-def]
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


@_inlined
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


@_inlined
def _cell(weight, number, above, buckets):  # type: ignore[no-untyped-def]
    """Cell of a weight in the bucket of that number."""
    cell = np.uint64(buckets[np.uint64(number)])
    while weight >= above[cell]:
        cell += np.uint64(1)
    return cell


@_jit
def _locate(weights, levels, above, inverse, buckets, cells, fractions):  # type: ignore[no-untyped-def]
    """Cell of each weight and its place in it: below 0 or at least 1 outside the levels."""
    numbers = np.empty(4096, np.int32)
    for start in range(0, weights.shape[0], 4096):
        these = slice(start, start + 4096)
        _number(weights[these], levels, buckets, numbers)
        for p in range(start, min(start + 4096, weights.shape[0])):
            cell = _cell(weights[p], numbers[p - start], above, buckets)
            cells[p] = cell
            fractions[p] = (weights[p] - levels[cell]) * inverse[cell]


@_jit
def _quantize(weights, thresholds, levels, buckets, out):  # type: ignore[no-untyped-def]
    """Level of the cell of each weight; a weight that equals a threshold goes up."""
    last = thresholds.shape[0] - 1
    top = np.float32(buckets.shape[0] - 1)
    lowest = thresholds[0]
    width = np.float64(thresholds[last]) - np.float64(lowest)
    scale = np.float32(top / width) if width > 0 else np.float32(0)
    for p in range(weights.shape[0]):
        weight = weights[p]
        number = (weight - lowest) * scale
        number = number if number > np.float32(0) else np.float32(0)  # NaN too
        cell = np.int64(buckets[np.int32(number if number < top else top)])
        while cell < last and weight >= thresholds[cell + 1]:
            cell += 1
        # `cell` counts borders from the first on; below it lies one more
        level = levels[cell + np.int64(weight >= thresholds[cell])]
        out[p] = level if weight == weight else weight


def quantize(weights: Tensor, thresholds: Tensor, levels: Tensor) -> Tensor:
    """Levels that stand for weights: `levels[bucketize(weights, thresholds, right=True)]`.

    Args:
        weights: float32, any shape, on the CPU; NaN stays NaN.
        thresholds: float32 `(num_levels - 1,)`, ascending, at least 2.
        levels: float32 `(num_levels,)`.

    Returns:
        float32, of the shape of `weights`.
    """
    flat = weights.contiguous().view(-1).numpy()
    buckets = np.zeros(BUCKETS + 1, np.uint16)
    borders = thresholds.numpy()
    if borders[-1] > borders[0]:
        _fill_buckets(borders, buckets)
    out = torch.empty_like(weights, memory_format=torch.contiguous_format)
    target = out.view(-1).numpy()
    bounds = np.linspace(0, len(flat), torch.get_num_threads() + 1).astype(int)

    def run(job: tuple[int, int, int, int]) -> None:
        _, begin, end, _ = job
        _quantize(flat[begin:end], borders, levels.numpy(), buckets, target[begin:end])

    _run(run, [[(0, int(a), int(b), 0)] for a, b in pairwise(bounds)])
    return out


@_jit
def _finish(table, parts, cells, total, logs):  # type: ignore[no-untyped-def]
    """Add the parts of a table, fill in `log2` of the mass, and return the bits of all its tuples.

    The gradient needs differences of logarithms only, so the logarithm of the total is left out:
    that of an empty cell, which counts as one tuple, is 0, and float32 holds small ones well.
    """
    bits = 0.0
    for cell in range(cells):
        mass = table[cell]
        for part in range(1, parts):
            mass += table[part * cells + cell]
        if mass > 0:
            bits -= mass * np.log2(mass / total)
            logs[cell] = np.log2(mass)
        else:
            logs[cell] = 0
    return bits


@_jit
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Place of `key` in an open-addressing table of a power-of-two size, or of the gap for it."""
    mask = keys.shape[0] - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@lru_cache
def kernels(order: int) -> Kernels:
    """The passes for tuples of length `order`, compiled on their first call."""
    corners = 1 << order

    # The number of corners is a constant here so that the compiler unrolls the loops over them.
    @_inlined
    def products(cells, fractions, first, num_levels, product):  # type: ignore[no-untyped-def]
        base = np.int64(0)
        product[0] = 1.0
        for j in range(order):
            base = base * num_levels + cells[first + j]
            fraction = min(max(np.float64(fractions[first + j]), 0.0), 1.0)
            for k in range(1 << j):
                upper = product[k] * fraction
                product[k + (1 << j)] = upper
                product[k] *= 1.0 - fraction
        return base

    @_inlined
    def slopes(cells, fractions, first, inverse, values, factors):  # type: ignore[no-untyped-def]
        """Replace the fractions of a tuple by its gradient; `values` begins with its `log2 p`."""
        begin = 0
        size = corners
        for j in range(order - 1, -1, -1):  # contract one factor after the other ...
            half = size >> 1
            fraction = min(max(np.float64(fractions[first + j]), 0.0), 1.0)
            for k in range(half):
                low = values[begin + k]
                values[begin + size + k] = low + (values[begin + half + k] - low) * fraction
            begin += size
            size = half
        factors[0] = 1.0
        for j in range(order):  # ... and back, leaving one factor out at a time
            half = 1 << j
            begin -= half << 1
            raw = np.float64(fractions[first + j])
            fraction = min(max(raw, 0.0), 1.0)
            slope = 0.0
            for k in range(half):
                factor = factors[k]
                slope += factor * (values[begin + half + k] - values[begin + k])
                factors[half + k] = factor * fraction
                factors[k] = factor * (1.0 - fraction)
            inside = (raw >= 0.0) & (raw < 1.0)
            fractions[first + j] = -slope * inverse[cells[first + j]] if inside else 0.0

    # The dense passes go through the tuples a block at a time, one simple loop after the other:
    # the compiler vectorises them, and what they leave behind stays in the nearest cache.
    block = max(16, min(512, 4096 >> order))

    @_inlined
    def split(products, places, j, count):  # type: ignore[no-untyped-def]
        """Multiply products of `j` factors by factor `j`: its lower half, then its upper half."""
        one = places.dtype.type(1)
        half = 1 << j
        for k in range(half):
            for t in range(count):
                products[half + k, t] = products[k, t] * places[j, t]
                products[k, t] = products[k, t] * (one - places[j, t])

    @_jit
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
        num_levels,
        offsets,
        table,
    ):
        real = weights.dtype
        zero, one = real.type(0), real.type(1)
        numbers = np.empty(block * order, np.int32)
        bases = np.empty(block, np.int64)
        places = np.empty((order, block), real)
        products = np.empty((corners, block), real)
        for start in range(begin, end, block):
            count = min(block, end - start)
            first = start * order
            _number(weights[first : first + count * order], levels, buckets, numbers)
            for t in range(count):
                base = np.int64(0)
                for j in range(order):
                    p = t * order + j
                    weight = weights[first + p]
                    cell = _cell(weight, numbers[p], above, buckets)
                    place = (weight - levels[cell]) * inverse[cell]
                    cells[first + p] = cell
                    fractions[first + p] = place
                    base = base * num_levels + np.int64(cell)
                    place = place if place > zero else zero
                    places[j, t] = place if place < one else one
                bases[t] = base
            products[0, :] = 1
            for j in range(order):
                split(products, places, j, count)
            for t in range(count):
                for k in range(corners):
                    table[np.uint64(bases[t] + offsets[k])] += products[k, t]

    @_jit
    def gradient(  # type: ignore[no-untyped-def]
        cells, fractions, begin, end, inverse, num_levels, offsets, logs
    ):
        real = fractions.dtype
        zero, one = real.type(0), real.type(1)
        places = np.empty((order, block), real)
        values = np.empty((2 * corners, block), real)
        factors = np.empty((corners, block), real)
        slopes = np.empty(block, real)
        for start in range(begin, end, block):
            count = min(block, end - start)
            own_cells = cells[start * order : (start + count) * order]
            own = fractions[start * order : (start + count) * order]
            for t in range(count):
                base = np.int64(0)
                for j in range(order):
                    p = t * order + j
                    base = base * num_levels + own_cells[p]
                    place = own[p] if own[p] > zero else zero
                    places[j, t] = place if place < one else one
                for k in range(corners):
                    values[k, t] = logs[np.uint64(base + offsets[k])]
            first = 0
            size = corners
            for j in range(order - 1, -1, -1):  # contract one factor after the other ...
                half = size >> 1
                for k in range(half):
                    for t in range(count):
                        low = values[first + k, t]
                        step = values[first + half + k, t] - low
                        values[first + size + k, t] = low + step * places[j, t]
                first += size
                size = half
            factors[0, :] = 1
            for j in range(order):  # ... and back, leaving one factor out at a time
                half = 1 << j
                first -= half << 1
                slopes[:] = 0
                for k in range(half):
                    for t in range(count):
                        step = values[first + k, t] - values[first + half + k, t]
                        slopes[t] += factors[k, t] * step
                if j + 1 < order:
                    split(factors, places, j, count)
                for t in range(count):
                    p = t * order + j
                    inside = (own[p] >= zero) & (own[p] < one)
                    own[p] = slopes[t] * inverse[np.uint64(own_cells[p])] if inside else zero

    @_jit
    def accumulate_sparse(  # type: ignore[no-untyped-def]
        cells, fractions, tuples, num_levels, offsets, keys, masses, used
    ):
        product = np.empty(corners, np.float64)
        for t in range(tuples):
            base = products(cells, fractions, t * order, num_levels, product)
            for k in range(corners):
                if product[k] == 0:
                    continue
                slot = _slot(keys, base + offsets[k])
                if keys[slot] == -1:
                    keys[slot] = base + offsets[k]
                    used += 1
                masses[slot] += product[k]
            if 2 * (used + corners) > keys.shape[0]:
                old_keys, old_masses = keys, masses
                keys = np.full(2 * old_keys.shape[0], -1, np.int64)
                masses = np.zeros(2 * old_keys.shape[0], np.float64)
                for old in range(old_keys.shape[0]):
                    if old_keys[old] != -1:
                        slot = _slot(keys, old_keys[old])
                        keys[slot] = old_keys[old]
                        masses[slot] = old_masses[old]
        return keys, masses, used

    @_jit
    def gradient_sparse(  # type: ignore[no-untyped-def]
        cells, fractions, tuples, inverse, num_levels, offsets, keys, logs
    ):
        values = np.empty(2 * corners, np.float64)
        factors = np.empty(corners, np.float64)
        for t in range(tuples):
            base = np.int64(0)
            for j in range(order):
                base = base * num_levels + cells[t * order + j]
            for k in range(corners):
                # a cell that no tuple touches ends in a gap, whose logarithm is the floor
                values[k] = logs[_slot(keys, base + offsets[k])]
            slopes(cells, fractions, t * order, inverse, values, factors)

    return Kernels(accumulate, gradient, accumulate_sparse, gradient_sparse)


def bits_and_gradient(
    flat: Tensor, layout: Layout, with_gradient: bool, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Bits of all whole tuples and their gradient.

    Args:
        flat: Weights, float32 or float64 `(num_weights,)`, contiguous, on the CPU.
        layout: Where the tensors lie in `flat`.
        with_gradient: If False the gradient comes back empty.
        scale: Factor of the gradient, here and not in a pass of its own.

    Returns:
        Bits, float64 scalar; gradient, dtype of `flat`, `(num_weights,)`, 0 for left-over weights.
        The gradient is computed in the dtype of `flat`: float32 logarithms of up to 30 bits hold it
        to about 1e-6 bits.
    """
    problem = _Problem(flat.numpy(), layout, scale)
    bits = (problem.dense if layout.is_dense() else problem.sparse)(with_gradient)
    gradient = problem.fractions if with_gradient else problem.fractions[:0]
    return torch.tensor(bits, dtype=torch.float64), torch.from_numpy(gradient)


class _Problem:
    """One evaluation: the arrays that its passes share."""

    def __init__(self, weights: np.ndarray, layout: Layout, scale: float) -> None:
        self.weights = weights
        self.layout = layout
        self.kernels = kernels(layout.order)
        few = max(layout.table_levels) <= 256
        self.cells = np.empty(len(weights), np.uint8 if few else np.uint16)
        # The place of each weight in its cell, and in the last pass its gradient instead.
        self.fractions = np.empty_like(weights)
        ends = [*layout.starts[1:], len(weights)]
        for start, count, end in zip(layout.starts, layout.tuples, ends, strict=True):
            self.fractions[start + count * layout.order : end] = 0  # left over, counted elsewhere
        self.totals = layout.table_tuples()
        self.levels, self.above, self.inverses, self.scaled, self.buckets = [], [], [], [], []
        infinity = weights.dtype.type(np.inf)
        for entry in layout.levels:
            levels = entry.numpy().astype(weights.dtype)
            self.inverses.append(inverse_gaps(torch.from_numpy(levels)).numpy())
            self.scaled.append(self.inverses[-1] * weights.dtype.type(scale))
            if len(levels) == 1:  # a cell that no weight leaves: its inverse gap is 0
                levels = np.append(levels, levels + max(1, abs(levels[0])))
            self.levels.append(levels)
            self.above.append(np.append(levels[1:-1], infinity))  # where the next cell begins
            self.buckets.append(np.empty(BUCKETS + 1, np.uint16))
            _fill_buckets(levels, self.buckets[-1])
        self.offsets = [
            np.array(layout.corner_offsets(count), np.int64) for count in layout.table_levels
        ]

    def view(self, array: np.ndarray, segment: int) -> np.ndarray:
        """The whole tuples of a segment."""
        start = self.layout.starts[segment]
        return array[start : start + self.layout.tuples[segment] * self.layout.order]

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
            self.kernels.accumulate(
                self.view(self.weights, segment),
                self.view(self.cells, segment),
                self.view(self.fractions, segment),
                begin,
                end,
                self.levels[segment],
                self.above[segment],
                self.inverses[segment],
                self.buckets[segment],
                layout.table_levels[table],
                self.offsets[table],
                sums[first : first + cells[table]],
            )

        def gradient(job: tuple[int, int, int, int]) -> None:
            segment, begin, end, _ = job
            table = layout.tables[segment]
            self.kernels.gradient(
                self.view(self.cells, segment),
                self.view(self.fractions, segment),
                begin,
                end,
                self.scaled[segment],
                layout.table_levels[table],
                self.offsets[table],
                logs[table],
            )

        # Jobs that share a part run one after the other on the same thread.
        _run(accumulate, _by_part(jobs, layout))
        bits = 0.0
        logs = []
        for table, count in enumerate(cells):
            logs.append(np.empty(count, self.weights.dtype))
            bits += _finish(
                sums[starts[table] : starts[table + 1]],
                parts[table],
                count,
                float(max(self.totals[table], 1)),
                logs[table],
            )
        if with_gradient:
            _run(gradient, [[job] for job in jobs])
        return bits

    def sparse(self, with_gradient: bool) -> float:
        """Tables that hold only the cells in use."""
        layout = self.layout
        tables = [
            (np.full(1024 << layout.order, -1, np.int64), np.zeros(1024 << layout.order), 0)
            for _ in layout.table_levels
        ]
        for segment, table in enumerate(layout.tables):
            weights, cells, fractions = (
                self.view(array, segment) for array in (self.weights, self.cells, self.fractions)
            )
            _locate(
                weights,
                self.levels[segment],
                self.above[segment],
                self.inverses[segment],
                self.buckets[segment],
                cells,
                fractions,
            )
            tables[table] = self.kernels.accumulate_sparse(
                cells,
                fractions,
                layout.tuples[segment],
                layout.table_levels[table],
                self.offsets[table],
                *tables[table],
            )
        bits = 0.0
        logs = []
        for table, (_, masses, _) in enumerate(tables):
            logs.append(np.empty(len(masses)))
            total = float(max(self.totals[table], 1))
            bits += _finish(masses, 1, len(masses), total, logs[table])
        for segment, table in enumerate(layout.tables if with_gradient else []):
            self.kernels.gradient_sparse(
                self.view(self.cells, segment),
                self.view(self.fractions, segment),
                layout.tuples[segment],
                self.scaled[segment],
                layout.table_levels[table],
                self.offsets[table],
                tables[table][0],
                logs[table],
            )
        return bits


def warm_up(order: int, dtype: torch.dtype = torch.float32) -> None:
    """Compile the passes for `order` (or load them from numba's cache) before they are needed."""
    flat = torch.linspace(-1, 1, 4 * order, dtype=dtype)
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    bits_and_gradient(flat, Layout.of([len(flat)], [levels], order, False), True)
    quantize(flat.float(), torch.tensor([-0.5, 0.5]), levels.float())


def _by_part(jobs: list[tuple[int, int, int, int]], layout: Layout) -> list[list[Any]]:
    groups: dict[tuple[int, int], list[Any]] = {}
    for job in jobs:
        groups.setdefault((layout.tables[job[0]], job[3]), []).append(job)
    return list(groups.values())


def _run(function: Callable[[Any], None], groups: list[list[Any]]) -> None:
    """Call `function` on every job, the groups shared among torch's number of threads."""

    def run(share: list[list[Any]]) -> None:
        for group in share:
            for job in group:
                function(job)

    threads = min(torch.get_num_threads(), len(groups))
    tuples = sum(end - begin for group in groups for _, begin, end, _ in group)
    if threads <= 1 or tuples < 2 * PART:
        run(groups)
        return
    # Large first, each to the thread with the least so far.
    shares: list[list[list[Any]]] = [[] for _ in range(threads)]
    loads = [0] * threads
    for group in sorted(groups, key=lambda group: -sum(job[2] - job[1] for job in group)):
        lightest = loads.index(min(loads))
        shares[lightest].append(group)
        loads[lightest] += sum(job[2] - job[1] for job in group)
    list(_pool(os.getpid(), threads).map(run, shares))


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # keyed by the process: threads do not survive a fork
    return ThreadPoolExecutor(threads, thread_name_prefix="hemp-entropy")
