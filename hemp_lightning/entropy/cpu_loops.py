"""The loops of `hemp_lightning.entropy.cpu` over tables whose cells have places of their own.

What is compiled into a loop stands in its file, see `hemp_lightning.ground.numba_tools`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemp_lightning.ground.numba_tools import fused, inlined, jit, unrolled

BLOCK = 128
"""Tuples that are located before they are counted."""

ROW = 64
"""Cells whose logarithms are taken together."""

LINE = 16
"""Cells of a row of a table that become logarithms together, if one of them is hit."""


@inlined
def _atanh(s):  # type: ignore[no-untyped-def]
    """`atanh s` for `|s| < 0.1716` to the last bits of float64."""
    z = s * s
    series = 1 / 21
    series = series * z + 1 / 19
    series = series * z + 1 / 17
    series = series * z + 1 / 15
    series = series * z + 1 / 13
    series = series * z + 1 / 11
    series = series * z + 1 / 9
    series = series * z + 1 / 7
    series = series * z + 1 / 5
    series = series * z + 1 / 3
    return s + s * z * series


@inlined
def _atanh_single(s):  # type: ignore[no-untyped-def]
    """`_atanh` to the last bits of float32."""
    z = s * s
    series = np.float32(1 / 9)
    series = series * z + np.float32(1 / 7)
    series = series * z + np.float32(1 / 5)
    series = series * z + np.float32(1 / 3)
    return s + s * z * series


# Integers of the same size, bits of the mantissa, the bits of the square root of 1/2, and `atanh`.
_FORMATS: dict[type, tuple[Any, int, int, Any]] = {
    np.float64: (np.int64, 52, 0x3FE6A09E667F3BCD, _atanh),
    np.float32: (np.int32, 23, 0x3F3504F3, _atanh_single),
}


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


@jit
def finish(table, parts, cells, logs):  # type: ignore[no-untyped-def]
    """Add the parts of a table, fill in `log2` of the mass, and return the sum of mass * log2 mass.

    The gradient needs differences of logarithms only, so the logarithm of the total is left out:
    that of an empty cell, which counts as one tuple, is 0, and float32 holds small ones well.
    """
    sums = np.zeros(ROW)
    for start in range(0, cells, ROW):
        end = min(start + ROW, cells)
        for part in range(1, parts):
            for cell in range(start, end):
                table[cell] += table[part * cells + cell]
        _finish_line(table, start, end - start, logs, sums, np.float64(1))
    return sums.sum()


# Functions of a tuple of weights, or of what is left of one. Numba compiles them for each length of
# the Python tuples that they take, so that loops over corners are unrolled and what they work on
# stays in registers. `places` (floats), `steps` and `strides` (int64) have an entry per weight:
# `steps` leads from cell to cell for a weight one cell further up, `strides` to the upper corner.
# As plain Python, uncompiled, each makes the function for its length and calls it.


def _finish_line(masses, first, size, logs, sums, real):  # type: ignore[no-untyped-def]
    """Logarithms of up to `ROW` cells; adds mass * log2 mass to `sums`. The compiler vectorises it.

    `m = 2^e (1 + s) / (1 - s)` with `|s| < 0.1716`, and `log2 m = e + 2 / ln 2 * atanh s`, in the
    dtype of `real`, a number.
    """
    _make_finish_line(masses, first, size, logs, sums, real)(masses, first, size, logs, sums, real)


@unrolled(_finish_line)
def _make_finish_line(masses, first, size, logs, sums, real):  # type: ignore[no-untyped-def]
    kind = np.dtype(str(getattr(real, "dtype", real))).type  # numba gives its type
    integer, bits, root_half, atanh = _FORMATS[kind]
    root_half, bits = integer(root_half), integer(bits)
    one, zero, factor = kind(1), kind(0), kind(2 / np.log(2))

    def finish_line(masses, first, size, logs, sums, real):  # type: ignore[no-untyped-def]
        for n in range(size):
            cell = np.uint64(first + n)
            mass = kind(masses[cell])
            word = mass.view(integer)
            exponent = integer(integer(word - root_half) >> bits)
            mantissa = integer(word - integer(exponent << bits)).view(kind)
            log = kind(exponent) + factor * atanh((mantissa - one) / (mantissa + one))
            log = log if mass > zero else zero
            sums[np.uint64(n)] += np.float64(mass * log)
            logs[cell] = log

    return finish_line


def _add(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
    """Add the corner products of a tuple of weights to a table."""
    return _make_add(table, cell, product, places, strides)(table, cell, product, places, strides)


@unrolled(_add)
def _make_add(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
    if not len(places):

        def add_one(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
            table[np.uint64(cell)] += product

        return add_one

    def add(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
        low = product * (type(product)(1) - places[0])  # exact where it is small
        _add(table, cell, low, places[1:], strides[1:])
        _add(table, cell + strides[0], product * places[0], places[1:], strides[1:])

    return add


def _contract(table, cell, places, strides):  # type: ignore[no-untyped-def]
    """The mean of a table over the corners of a tuple of weights, and its slope along each."""
    return _make_contract(table, cell, places, strides)(table, cell, places, strides)


@unrolled(_contract)
def _make_contract(table, cell, places, strides):  # type: ignore[no-untyped-def]
    if not len(places):
        return lambda table, cell, places, strides: (table[np.uint64(cell)],)

    def contract(table, cell, places, strides):  # type: ignore[no-untyped-def]
        low = _contract(table, cell, places[1:], strides[1:])
        high = _contract(table, cell + strides[0], places[1:], strides[1:])
        step = high[0] - low[0]
        first = (low[0] + step * places[0], step)
        return first + _mix(low[1:], high[1:], places[0])

    return contract


def _mix(low, high, place):  # type: ignore[no-untyped-def]
    """The point between two tuples of numbers."""
    return _make_mix(low, high, place)(low, high, place)


@unrolled(_mix)
def _make_mix(low, high, place):  # type: ignore[no-untyped-def]
    if not len(low):
        return lambda low, high, place: ()

    def mix(low, high, place):  # type: ignore[no-untyped-def]
        rest = _mix(low[1:], high[1:], place)
        return (low[0] + (high[0] - low[0]) * place,) + rest  # noqa: RUF005

    return mix


def _cell_of(cells, first, steps):  # type: ignore[no-untyped-def]
    """Lowest cell of the tuple of weights that begins at `first`."""
    return _make_cell_of(cells, first, steps)(cells, first, steps)


@unrolled(_cell_of)
def _make_cell_of(cells, first, steps):  # type: ignore[no-untyped-def]
    if not len(steps):
        return lambda cells, first, steps: np.int64(0)

    def cell_of(cells, first, steps):  # type: ignore[no-untyped-def]
        rest = _cell_of(cells, first + 1, steps[1:])
        return rest + np.int64(cells[first]) * steps[0]

    return cell_of


def _places_of(fractions, first, steps):  # type: ignore[no-untyped-def]
    """Places of the weights of a tuple between their levels, from 0 to 1."""
    return _make_places_of(fractions, first, steps)(fractions, first, steps)


@unrolled(_places_of)
def _make_places_of(fractions, first, steps):  # type: ignore[no-untyped-def]
    if not len(steps):
        return lambda fractions, first, steps: ()

    def places_of(fractions, first, steps):  # type: ignore[no-untyped-def]
        zero, one = fractions.dtype.type(0), fractions.dtype.type(1)
        place = fractions[first]
        place = place if place > zero else zero
        place = place if place < one else one
        return (place,) + _places_of(fractions, first + 1, steps[1:])  # noqa: RUF005

    return places_of


def _add_marked(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
    """`_add`, marking the lines of the cells."""
    return _make_add_marked(table, cell, product, places, strides, marks)(
        table, cell, product, places, strides, marks
    )


@unrolled(_add_marked)
def _make_add_marked(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
    if not len(places):

        def add_one(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
            table[np.uint64(cell)] += product
            marks[np.uint64(cell) // np.uint64(LINE)] = 1

        return add_one

    def add(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
        low = product * (type(product)(1) - places[0])  # exact where it is small
        _add_marked(table, cell, low, places[1:], strides[1:], marks)
        high, above = product * places[0], cell + strides[0]
        _add_marked(table, above, high, places[1:], strides[1:], marks)

    return add


def _weigh(places, corner, one):  # type: ignore[no-untyped-def]
    """Product of the soft assignments of a corner, and its slope along each place.

    Bit `j` of `corner` says whether weight `j` is at its upper level.
    """
    return _make_weigh(places, corner, one)(places, corner, one)


@unrolled(_weigh)
def _make_weigh(places, corner, one):  # type: ignore[no-untyped-def]
    if not len(places):
        return lambda places, corner, one: (one,)

    def weigh(places, corner, one):  # type: ignore[no-untyped-def]
        rest = _weigh(places[1:], corner >> 1, one)
        first = (places[0], one) if corner & 1 else (one - places[0], -one)
        return (first[0] * rest[0], first[1] * rest[0]) + _scale(rest[1:], first[0])  # noqa: RUF005

    return weigh


def _scale(values, factor):  # type: ignore[no-untyped-def]
    """A tuple of numbers times a factor."""
    return _make_scale(values, factor)(values, factor)


@unrolled(_scale)
def _make_scale(values, factor):  # type: ignore[no-untyped-def]
    if not len(values):
        return lambda values, factor: ()
    return lambda values, factor: (values[0] * factor,) + _scale(values[1:], factor)  # noqa: RUF005


def _increase(array, first, values):  # type: ignore[no-untyped-def]
    """Add a tuple of numbers to an array."""
    return _make_increase(array, first, values)(array, first, values)


@unrolled(_increase)
def _make_increase(array, first, values):  # type: ignore[no-untyped-def]
    if not len(values):
        return lambda array, first, values: None

    def increase(array, first, values):  # type: ignore[no-untyped-def]
        array[first] += values[0]
        _increase(array, first + 1, values[1:])

    return increase


def _load(array, first, steps):  # type: ignore[no-untyped-def]
    """As many numbers of an array as there are `steps`."""
    return _make_load(array, first, steps)(array, first, steps)


@unrolled(_load)
def _make_load(array, first, steps):  # type: ignore[no-untyped-def]
    if not len(steps):
        return lambda array, first, steps: ()
    return lambda array, first, steps: (array[first],) + _load(array, first + 1, steps[1:])  # noqa: RUF005


def _store(array, first, values):  # type: ignore[no-untyped-def]
    """Put a tuple of numbers into an array."""
    return _make_store(array, first, values)(array, first, values)


@unrolled(_store)
def _make_store(array, first, values):  # type: ignore[no-untyped-def]
    if not len(values):
        return lambda array, first, values: None

    def store(array, first, values):  # type: ignore[no-untyped-def]
        array[first] = values[0]
        _store(array, first + 1, values[1:])

    return store


def _write(cells, fractions, first, inverse, slopes):  # type: ignore[no-untyped-def]
    """Replace the fractions of a tuple by its gradient."""
    return _make_write(cells, fractions, first, inverse, slopes)(
        cells, fractions, first, inverse, slopes
    )


@unrolled(_write)
def _make_write(cells, fractions, first, inverse, slopes):  # type: ignore[no-untyped-def]
    if not len(slopes):
        return lambda cells, fractions, first, inverse, slopes: None

    def write(cells, fractions, first, inverse, slopes):  # type: ignore[no-untyped-def]
        zero, one = fractions.dtype.type(0), fractions.dtype.type(1)
        inside = (fractions[first] >= zero) & (fractions[first] < one)
        slope = -slopes[0] * inverse[np.uint64(cells[first])]
        fractions[first] = slope if inside else zero
        _write(cells, fractions, first + 1, inverse, slopes[1:])

    return write


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
            cell = _cell_of(cells, t * order, steps)
            places = _places_of(fractions, t * order, steps)
            _add(table, cell, one, places, strides)


@fused
def gradient(  # type: ignore[no-untyped-def]
    cells, fractions, begin, end, inverse, steps, strides, logs
):
    """Replace the fractions of tuples by their gradient."""
    order = len(steps)
    for t in range(begin, end):
        cell = _cell_of(cells, t * order, steps)
        places = _places_of(fractions, t * order, steps)
        found = _contract(logs, cell, places, strides)
        _write(cells, fractions, t * order, inverse, found[1:])


@jit
def count_buckets_of(cells, order, steps, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` the tuples in each bucket, those whose leading weights share their cells."""
    for t in range(cells.shape[0] // order):
        counts[_cell_of(cells, t * order, steps)] += 1


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
        bucket = _cell_of(cells, t * order, leading)
        target = heads[bucket]
        heads[bucket] = target + 1
        listed[t] = target
        found = _places_of(fractions, t * order, leading + steps)
        for j in range(order):
            places[target * size + j] = found[j]
        numbers[target * size + order] = _cell_of(cells, t * order + lead, steps)


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
    """Count sorted tuples two rows of the table at a time; see `cpu.rows`.

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
                    weight = _weigh(_load(places, first, outer), corner, one)[0]
                    inner = _load(places, first + len(outer), strides)
                    cell = low + np.int64(numbers[first + order])
                    _add_marked(masses, cell, weight, inner, (jump,) + strides[1:], marks)  # noqa: RUF005
            for line in range(this * lines, this * lines + lines):
                if marks[line]:
                    marks[line] = 0
                    _finish_line(masses, line * LINE, LINE, logs, sums, one)
                    masses[line * LINE : line * LINE + LINE] = 0
            for corner in range(corners if with_gradient and row else 0):
                bucket = strip * num_rows + row - 1 + shifts[corner]
                for t in range(begins[bucket], begins[bucket + 1]):
                    first = t * size
                    weights = _weigh(_load(places, first, outer), corner, one)
                    inner = _load(places, first + len(outer), strides)
                    cell = low + jump + np.int64(numbers[first + order])
                    means = _contract(logs, cell, inner, (-jump,) + strides[1:])  # noqa: RUF005
                    found_slopes = _scale(weights[1:], means[0]) + _scale(means[1:], weights[0])
                    if corner == 0:
                        _store(slopes, t * order, found_slopes)
                    else:
                        _increase(slopes, t * order, found_slopes)
    return sums.sum()


@jit
def spread(  # type: ignore[no-untyped-def]
    cells, fractions, inverse, steps, listed, slopes
):
    """Replace the fractions of tuples by their gradient, whose slopes are sorted."""
    order = len(steps)
    for t in range(listed.shape[0]):
        found = _load(slopes, listed[t] * order, steps)
        _write(cells, fractions, t * order, inverse, found)
