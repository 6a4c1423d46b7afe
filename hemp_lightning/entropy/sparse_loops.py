"""The loops of `sparse`: tables of the cells in use, for any order."""

from __future__ import annotations

import numpy as np

from hemp_reader.numba_tools import inlined, jit


@jit
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Place of `key` in an open-addressing table of a power-of-two size, or of the gap for it."""
    mask = keys.shape[0] - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@inlined
def _products(cells, fractions, first, order, num_levels, product):  # type: ignore[no-untyped-def]
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


@inlined
def _slopes(cells, fractions, first, order, inverse, values, factors):  # type: ignore[no-untyped-def]
    """Replace the fractions of a tuple by its gradient; `values` begins with its `log2 p`."""
    begin = 0
    size = 1 << order
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


@jit
def accumulate(  # type: ignore[no-untyped-def]
    cells, fractions, tuples, order, num_levels, offsets, keys, masses, used
):
    """Add the corner products of tuples to a table of the cells in use, which grows."""
    corners = offsets.shape[0]
    product = np.empty(corners, np.float64)
    for t in range(tuples):
        base = _products(cells, fractions, t * order, order, num_levels, product)
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


@jit
def gradient(  # type: ignore[no-untyped-def]
    cells, fractions, tuples, order, inverse, num_levels, offsets, keys, logs
):
    """Replace the fractions of tuples by their gradient."""
    corners = offsets.shape[0]
    values = np.empty(2 * corners, np.float64)
    factors = np.empty(corners, np.float64)
    for t in range(tuples):
        base = np.int64(0)
        for j in range(order):
            base = base * num_levels + cells[t * order + j]
        for k in range(corners):
            # a cell that no tuple touches ends in a gap, whose logarithm is the floor
            values[k] = logs[_slot(keys, base + offsets[k])]
        _slopes(cells, fractions, t * order, order, inverse, values, factors)
