"""The corners of a tuple of weights, compiled for each order.

Functions of a tuple of weights, or of what is left of one. Numba compiles them for each length of
the Python tuples that they take, so that loops over corners are unrolled and what they work on
stays in registers. `places` (floats), `steps` and `strides` (int64) have an entry per weight:
`steps` leads from cell to cell for a weight one cell further up, `strides` to the upper corner.

As plain Python, uncompiled, each makes the function for its length and calls it.
"""

from __future__ import annotations

import numpy as np

from hemp_lightning.entropy.logarithms import LINE
from hemp_reader.numba_tools import unrolled


def add_corners(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
    """Add the corner products of a tuple of weights to a table."""
    return _make_add(table, cell, product, places, strides)(table, cell, product, places, strides)


@unrolled(add_corners)
def _make_add(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
    if not len(places):

        def add_one(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
            table[np.uint64(cell)] += product

        return add_one

    def add(table, cell, product, places, strides):  # type: ignore[no-untyped-def]
        low = product * (type(product)(1) - places[0])  # exact where it is small
        add_corners(table, cell, low, places[1:], strides[1:])
        add_corners(table, cell + strides[0], product * places[0], places[1:], strides[1:])

    return add


def contract_corners(table, cell, places, strides):  # type: ignore[no-untyped-def]
    """The mean of a table over the corners of a tuple of weights, and its slope along each."""
    return _make_contract(table, cell, places, strides)(table, cell, places, strides)


@unrolled(contract_corners)
def _make_contract(table, cell, places, strides):  # type: ignore[no-untyped-def]
    if not len(places):
        return lambda table, cell, places, strides: (table[np.uint64(cell)],)

    def contract(table, cell, places, strides):  # type: ignore[no-untyped-def]
        low = contract_corners(table, cell, places[1:], strides[1:])
        high = contract_corners(table, cell + strides[0], places[1:], strides[1:])
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


def lowest_cell(cells, first, steps):  # type: ignore[no-untyped-def]
    """Lowest cell of the tuple of weights that begins at `first`."""
    return _make_cell_of(cells, first, steps)(cells, first, steps)


@unrolled(lowest_cell)
def _make_cell_of(cells, first, steps):  # type: ignore[no-untyped-def]
    if not len(steps):
        return lambda cells, first, steps: np.int64(0)

    def cell_of(cells, first, steps):  # type: ignore[no-untyped-def]
        rest = lowest_cell(cells, first + 1, steps[1:])
        return rest + np.int64(cells[first]) * steps[0]

    return cell_of


def tuple_places(fractions, first, steps):  # type: ignore[no-untyped-def]
    """Places of the weights of a tuple between their levels, from 0 to 1."""
    return _make_places_of(fractions, first, steps)(fractions, first, steps)


@unrolled(tuple_places)
def _make_places_of(fractions, first, steps):  # type: ignore[no-untyped-def]
    if not len(steps):
        return lambda fractions, first, steps: ()

    def places_of(fractions, first, steps):  # type: ignore[no-untyped-def]
        zero, one = fractions.dtype.type(0), fractions.dtype.type(1)
        place = fractions[first]
        place = place if place > zero else zero
        place = place if place < one else one
        return (place,) + tuple_places(fractions, first + 1, steps[1:])  # noqa: RUF005

    return places_of


def add_marked_corners(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
    """`add_corners`, marking the lines of the cells."""
    return _make_add_marked(table, cell, product, places, strides, marks)(
        table, cell, product, places, strides, marks
    )


@unrolled(add_marked_corners)
def _make_add_marked(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
    if not len(places):

        def add_one(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
            table[np.uint64(cell)] += product
            marks[np.uint64(cell) // np.uint64(LINE)] = 1

        return add_one

    def add(table, cell, product, places, strides, marks):  # type: ignore[no-untyped-def]
        low = product * (type(product)(1) - places[0])  # exact where it is small
        add_marked_corners(table, cell, low, places[1:], strides[1:], marks)
        high, above = product * places[0], cell + strides[0]
        add_marked_corners(table, above, high, places[1:], strides[1:], marks)

    return add


def weigh_corner(places, corner, one):  # type: ignore[no-untyped-def]
    """Product of the soft assignments of a corner, and its slope along each place.

    Bit `j` of `corner` says whether weight `j` is at its upper level.
    """
    return _make_weigh(places, corner, one)(places, corner, one)


@unrolled(weigh_corner)
def _make_weigh(places, corner, one):  # type: ignore[no-untyped-def]
    if not len(places):
        return lambda places, corner, one: (one,)

    def weigh(places, corner, one):  # type: ignore[no-untyped-def]
        rest = weigh_corner(places[1:], corner >> 1, one)
        first = (places[0], one) if corner & 1 else (one - places[0], -one)
        return (first[0] * rest[0], first[1] * rest[0]) + scale_tuple(rest[1:], first[0])  # noqa: RUF005

    return weigh


def scale_tuple(values, factor):  # type: ignore[no-untyped-def]
    """A tuple of numbers times a factor."""
    return _make_scale(values, factor)(values, factor)


@unrolled(scale_tuple)
def _make_scale(values, factor):  # type: ignore[no-untyped-def]
    if not len(values):
        return lambda values, factor: ()
    return lambda values, factor: (values[0] * factor,) + scale_tuple(values[1:], factor)  # noqa: RUF005


def increase_tuple(array, first, values):  # type: ignore[no-untyped-def]
    """Add a tuple of numbers to an array."""
    return _make_increase(array, first, values)(array, first, values)


@unrolled(increase_tuple)
def _make_increase(array, first, values):  # type: ignore[no-untyped-def]
    if not len(values):
        return lambda array, first, values: None

    def increase(array, first, values):  # type: ignore[no-untyped-def]
        array[first] += values[0]
        increase_tuple(array, first + 1, values[1:])

    return increase


def load_tuple(array, first, steps):  # type: ignore[no-untyped-def]
    """As many numbers of an array as there are `steps`."""
    return _make_load(array, first, steps)(array, first, steps)


@unrolled(load_tuple)
def _make_load(array, first, steps):  # type: ignore[no-untyped-def]
    if not len(steps):
        return lambda array, first, steps: ()
    return lambda array, first, steps: (array[first],) + load_tuple(array, first + 1, steps[1:])  # noqa: RUF005


def store_tuple(array, first, values):  # type: ignore[no-untyped-def]
    """Put a tuple of numbers into an array."""
    return _make_store(array, first, values)(array, first, values)


@unrolled(store_tuple)
def _make_store(array, first, values):  # type: ignore[no-untyped-def]
    if not len(values):
        return lambda array, first, values: None

    def store(array, first, values):  # type: ignore[no-untyped-def]
        array[first] = values[0]
        store_tuple(array, first + 1, values[1:])

    return store


def write_gradient(cells, fractions, first, inverse, slopes):  # type: ignore[no-untyped-def]
    """Replace the fractions of a tuple by its gradient."""
    return _make_write(cells, fractions, first, inverse, slopes)(
        cells, fractions, first, inverse, slopes
    )


@unrolled(write_gradient)
def _make_write(cells, fractions, first, inverse, slopes):  # type: ignore[no-untyped-def]
    if not len(slopes):
        return lambda cells, fractions, first, inverse, slopes: None

    def write(cells, fractions, first, inverse, slopes):  # type: ignore[no-untyped-def]
        zero, one = fractions.dtype.type(0), fractions.dtype.type(1)
        inside = (fractions[first] >= zero) & (fractions[first] < one)
        slope = -slopes[0] * inverse[np.uint64(cells[first])]
        fractions[first] = slope if inside else zero
        write_gradient(cells, fractions, first + 1, inverse, slopes[1:])

    return write
