"""The loops of `hemp_lightning.kernels.cpu`, compiled by numba.

All go through the tuples a block at a time, one simple loop after the other: the compiler
vectorises most of them, and what they leave behind stays in the nearest cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numba import njit

ROW = 64
"""Cells of a slab that are cleared, or left alone, together."""

_jit: Any = partial(njit, nogil=True, cache=True)
_inlined: Any = njit(inline="always")


class Kernels(NamedTuple):
    """Compiled passes for one order."""

    accumulate: Callable[..., None]
    gradient: Callable[..., None]
    accumulate_listed: Callable[..., None]
    gradient_listed: Callable[..., None]
    accumulate_sparse: Callable[..., Any]
    gradient_sparse: Callable[..., None]


@_jit
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


@_inlined
def locate(  # type: ignore[no-untyped-def]
    weights, levels, above, inverse, buckets, numbers, cells, fractions
):
    """Cell of each weight and its place in it: below 0 or at least 1 outside the levels."""
    _number(weights, levels, buckets, numbers)
    for p in range(weights.shape[0]):
        cell = _cell(weights[p], numbers[p], above, buckets)
        cells[p] = cell
        fractions[p] = (weights[p] - levels[cell]) * inverse[cell]


@_jit
def locate_all(  # type: ignore[no-untyped-def]
    weights, levels, above, inverse, buckets, cells, fractions
):
    """`locate` for any number of weights."""
    numbers = np.empty(1024, np.int32)
    for start in range(0, weights.shape[0], 1024):
        these = slice(start, start + 1024)
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


@_jit
def quantize(weights, thresholds, levels, buckets, out):  # type: ignore[no-untyped-def]
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


@_jit
def finish(table, parts, cells, logs):  # type: ignore[no-untyped-def]
    """Add the parts of a table, fill in `log2` of the mass, and return the sum of mass * log2 mass.

    The gradient needs differences of logarithms only, so the logarithm of the total is left out:
    that of an empty cell, which counts as one tuple, is 0, and float32 holds small ones well.
    """
    result = 0.0
    for cell in range(cells):
        mass = table[cell]
        for part in range(1, parts):
            mass += table[part * cells + cell]
        log = np.log2(mass) if mass > 0 else 0.0
        result += mass * log
        logs[cell] = log
    return result


@_jit
def finish_slab(masses, logs, dirty):  # type: ignore[no-untyped-def]
    """`finish` for one slab, row by row, clearing the masses; most rows are empty."""
    result = 0.0
    words = masses.view(np.int64)  # all 0 where the masses are, and quick to look through
    for row in range(dirty.shape[0]):
        these = masses[row * ROW : (row + 1) * ROW]
        some = 0
        for word in words[row * ROW : (row + 1) * ROW]:
            some |= word
        if some:
            result += finish(these, 1, these.shape[0], logs[row * ROW : (row + 1) * ROW])
            these[:] = 0
            dirty[row] = True
        elif dirty[row]:
            logs[row * ROW : (row + 1) * ROW] = 0
            dirty[row] = False
    return result


@_jit
def count_first(cells, order, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` the tuples whose first weight lies in each cell."""
    for t in range(cells.shape[0] // order):
        counts[cells[t * order]] += 1


@_jit
def list_first(cells, order, start, heads, listed):  # type: ignore[no-untyped-def]
    """List where tuples begin, by the cell of their first weight; `heads` move on."""
    for t in range(cells.shape[0] // order):
        cell = cells[t * order]
        listed[heads[cell]] = start + t * order
        heads[cell] += 1


@_jit
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Place of `key` in an open-addressing table of a power-of-two size, or of the gap for it."""
    mask = keys.shape[0] - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@_inlined
def _bucket(bits, shift):  # type: ignore[no-untyped-def]
    """Leading bits of a float32, given as int32, in the order of the numbers; -0.0 is 0.0."""
    wide = np.int64(bits)
    key = wide if wide >= 0 else -(wide & 0x7FFFFFFF) - 1  # the further from 0, the lower
    return ((key if key != -1 else np.int64(0)) + (np.int64(1) << 31)) >> shift


@_jit
def bucket_of(bits, shift, keys):  # type: ignore[no-untyped-def]
    """Bucket of each number."""
    for p in range(bits.shape[0]):
        keys[p] = _bucket(bits[p], shift)


@_jit
def count_buckets(bits, shift, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` the weights of each bucket."""
    for p in range(bits.shape[0]):
        counts[_bucket(bits[p], shift)] += 1


@_jit
def deal(bits, shift, heads, values):  # type: ignore[no-untyped-def]
    """Put weights into their buckets, one after the other; `heads` move on."""
    target = values.view(np.int32)
    for p in range(bits.shape[0]):
        key = _bucket(bits[p], shift)
        target[heads[key]] = bits[p]
        heads[key] += 1


@_jit
def sum_between(values, begins, ends, sums):  # type: ignore[no-untyped-def]
    """Sum of each run of values; the order of the additions does not depend on the machine."""
    for run in range(begins.shape[0]):
        a = b = c = d = 0.0
        begin, end = begins[run], ends[run]
        whole = begin + ((end - begin) >> 2 << 2)
        for p in range(begin, whole, 4):
            a += np.float64(values[p])
            b += np.float64(values[p + 1])
            c += np.float64(values[p + 2])
            d += np.float64(values[p + 3])
        for p in range(whole, end):
            a += np.float64(values[p])
        sums[run] = (a + b) + (c + d)


@_jit
def search(values, starts, keys, thresholds, found):  # type: ignore[no-untyped-def]
    """Position of the first value, at or above each threshold, in its sorted bucket."""
    for n in range(keys.shape[0]):
        low, high = starts[keys[n]], starts[keys[n] + 1]
        while low < high:
            middle = (low + high) >> 1
            if values[middle] < thresholds[n]:
                low = middle + 1
            else:
                high = middle
        found[n] = low


@lru_cache
def kernels(order: int) -> Kernels:
    """The passes for tuples of length `order`, compiled on their first call."""
    # The number of corners is a constant here so that the compiler unrolls the loops over them.
    corners = 1 << order
    width = min(corners, 8)
    block = max(16, min(512, 4096 >> order))

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

    @_inlined
    def find_bases(cells, steps, base, bases):  # type: ignore[no-untyped-def]
        for t in range(cells.shape[0] // order):
            found = base
            for j in range(order):
                found += np.int64(cells[t * order + j]) * steps[j]
            bases[t] = found

    @_inlined
    def find_places(fractions, places):  # type: ignore[no-untyped-def]
        zero, one = fractions.dtype.type(0), fractions.dtype.type(1)
        for j in range(order):
            for t in range(fractions.shape[0] // order):
                place = fractions[t * order + j]
                place = place if place > zero else zero
                places[j, t] = place if place < one else one

    @_inlined
    def split(products, places, j, count):  # type: ignore[no-untyped-def]
        """Multiply products of `j` factors by factor `j`: its lower half, then its upper half."""
        one = places.dtype.type(1)
        half = 1 << j
        for k in range(half):
            for t in range(count):
                products[half + k, t] = products[k, t] * places[j, t]
                products[k, t] = products[k, t] * (one - places[j, t])  # exact where it is small

    @_inlined
    def add(cells, fractions, steps, base, offsets, table, bases, places, products):  # type: ignore[no-untyped-def]
        count = cells.shape[0] // order
        find_bases(cells, steps, base, bases)
        find_places(fractions, places)
        products[0, :] = 1
        for j in range(order):
            split(products, places, j, count)
        for k in range(0, corners, width):  # few enough corners at a time to be unrolled
            shift = offsets[k]
            for t in range(count):
                for low in range(width):
                    cell = np.uint64(bases[t] + shift + offsets[low])
                    table[cell] += products[k + low, t]

    @_inlined
    def slope(  # type: ignore[no-untyped-def]
        cells,
        fractions,
        steps,
        base,
        offsets,
        inverse,
        logs,
        bases,
        places,
        values,
        factors,
        slopes,
    ):
        """Replace the fractions of a block by its gradient."""
        zero, one = fractions.dtype.type(0), fractions.dtype.type(1)
        count = cells.shape[0] // order
        find_bases(cells, steps, base, bases)
        find_places(fractions, places)
        for k in range(corners):
            shift = offsets[k]
            for t in range(count):
                values[k, t] = logs[np.uint64(bases[t] + shift)]
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
                inside = (fractions[p] >= zero) & (fractions[p] < one)
                fractions[p] = slopes[t] * inverse[np.uint64(cells[p])] if inside else zero

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
        steps,
        offsets,
        table,
    ):
        numbers = np.empty(block * order, np.int32)
        bases = np.empty(block, np.int64)
        places = np.empty((order, block), weights.dtype)
        products = np.empty((corners, block), weights.dtype)
        for start in range(begin, end, block):
            these = slice(start * order, min(start + block, end) * order)
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
            add(cells[these], fractions[these], steps, 0, offsets, table, bases, places, products)

    @_jit
    def gradient(  # type: ignore[no-untyped-def]
        cells, fractions, begin, end, inverse, steps, offsets, logs
    ):
        bases = np.empty(block, np.int64)
        places = np.empty((order, block), fractions.dtype)
        values = np.empty((2 * corners, block), fractions.dtype)
        factors = np.empty((corners, block), fractions.dtype)
        slopes = np.empty(block, fractions.dtype)
        for start in range(begin, end, block):
            these = slice(start * order, min(start + block, end) * order)
            slope(
                cells[these],
                fractions[these],
                steps,
                0,
                offsets,
                inverse,
                logs,
                bases,
                places,
                values,
                factors,
                slopes,
            )

    @_jit
    def accumulate_listed(  # type: ignore[no-untyped-def]
        listed, cells, fractions, steps, base, offsets, table
    ):
        own_cells = np.empty(block * order, cells.dtype)
        own = np.empty(block * order, fractions.dtype)
        bases = np.empty(block, np.int64)
        places = np.empty((order, block), fractions.dtype)
        products = np.empty((corners, block), fractions.dtype)
        for start in range(0, listed.shape[0], block):
            count = min(block, listed.shape[0] - start)
            for t in range(count):
                for j in range(order):
                    own_cells[t * order + j] = cells[listed[start + t] + j]
                    own[t * order + j] = fractions[listed[start + t] + j]
            these = slice(0, count * order)
            add(own_cells[these], own[these], steps, base, offsets, table, bases, places, products)

    @_jit
    def gradient_listed(  # type: ignore[no-untyped-def]
        listed, cells, fractions, steps, base, offsets, logs, inverses, bounds
    ):
        own_cells = np.empty(block * order, cells.dtype)
        own = np.empty(block * order, fractions.dtype)
        bases = np.empty(block, np.int64)
        places = np.empty((order, block), fractions.dtype)
        values = np.empty((2 * corners, block), fractions.dtype)
        factors = np.empty((corners, block), fractions.dtype)
        slopes = np.empty(block, fractions.dtype)
        segment = 0
        start = 0
        while start < listed.shape[0]:
            while listed[start] >= bounds[segment + 1]:  # positions ascend within a list
                segment += 1
            count = 0
            while (
                count < block
                and start + count < listed.shape[0]
                and listed[start + count] < bounds[segment + 1]
            ):
                for j in range(order):
                    own_cells[count * order + j] = cells[listed[start + count] + j]
                    own[count * order + j] = fractions[listed[start + count] + j]
                count += 1
            these = slice(0, count * order)
            slope(
                own_cells[these],
                own[these],
                steps,
                base,
                offsets,
                inverses[segment],
                logs,
                bases,
                places,
                values,
                factors,
                slopes,
            )
            for t in range(count):
                for j in range(order):
                    fractions[listed[start + t] + j] = own[t * order + j]
            start += count

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

    return Kernels(
        accumulate,
        gradient,
        accumulate_listed,
        gradient_listed,
        accumulate_sparse,
        gradient_sparse,
    )
