"""Cosines: back from the coefficients of kernels to weights.

A reader must get the same weights on every machine. `turned` therefore multiplies and adds numbers
of 64 bits one by one in a stated order, and rounds once at the end.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from hemp_reader.cosines_loop import turn
from hemp_reader.numba_tools import IS_COMPILED
from hemp_reader.transforms import MAX_EXTENT, kernel_axes

_UNIT = 2**30  # entries of the tables are whole multiples of its inverse
_PIECE = 2**12  # kernels that are turned at a time, between two loads of the cache


@lru_cache(maxsize=MAX_EXTENT)
def cosine_table(extent: int) -> np.ndarray:
    """The orthonormal cosine transform (DCT-II) of that many places.

    Each entry is a multiple of `2^-30`, the nearest one, so it is the same wherever cosines are
    known to nine digits.

    Args:
        extent: From 1 to `MAX_EXTENT`.

    Returns:
        float64 `(extent, extent)`: row k holds `sqrt((2 - (k == 0)) / extent) *
        cos(pi * (2 * n + 1) * k / (2 * extent))` for the places n.

    Example:
        >>> cosine_table(2)
        array([[ 0.70710678,  0.70710678],
               [ 0.70710678, -0.70710678]])
    """
    table = np.empty((extent, extent))
    for k in range(extent):
        scale = math.sqrt((2 if k else 1) / extent)
        for n in range(extent):
            cosine = math.cos(math.pi * ((2 * n + 1) * k % (4 * extent)) / (2 * extent))
            table[k, n] = round(_UNIT * scale * cosine) / _UNIT
    table.flags.writeable = False
    return table


def to_weights(coefficients: np.ndarray) -> np.ndarray:
    """Weights with these coefficients, the same bits on every machine.

    For each axis of the kernel in turn, the first one first, place n becomes
    `(table[0, n] * z_0 + table[1, n] * z_1) + table[2, n] * z_2 + ...` in float64; at the end the
    numbers are rounded to float32.

    Args:
        coefficients: float32, a shape that `is_transformable`.

    Returns:
        float32, of the same shape.

    Example:
        >>> to_weights(np.array([[[2.0, 0.0]]], np.float32))
        array([[[1.4142135, 1.4142135]]], dtype=float32)
    """
    return turned(coefficients, [cosine_table(n) for n in kernel_axes(coefficients.shape)])


def turned(entries: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """`sum_k table[k, n] * entries[k]` along each axis of the kernel, in the order of k."""
    if not IS_COMPILED:
        return _turned_plainly(entries, tables)
    extents = np.array(kernel_axes(entries.shape), np.int64)
    flat = np.ascontiguousarray(entries).reshape(-1, math.prod(extents.tolist()))
    out = np.empty(flat.shape, np.float32)
    turn(flat, extents, np.concatenate([table.reshape(-1) for table in tables]), out)
    return out.reshape(entries.shape)


def _turned_plainly(entries: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """`turned` without a compiler."""
    kernel = kernel_axes(entries.shape)
    flat = entries.reshape(-1, *kernel)
    out = np.empty(flat.shape, np.float32)
    last_first = (*range(1, len(kernel) + 1), 0)
    for start in range(0, len(flat), _PIECE):
        # kernels lie side by side, so that NumPy's loops are long
        held = flat[start : start + _PIECE].transpose(last_first).astype(np.float64, order="C")
        for axis, table in enumerate(tables):
            held = _along(np.moveaxis(held, axis, 0), table, axis)
        out[start : start + _PIECE] = np.moveaxis(held, -1, 0)
    return out.reshape(entries.shape)


def _along(entries: np.ndarray, table: np.ndarray, axis: int) -> np.ndarray:
    """One axis of `turned`, which is the first one of `entries` and is put back to `axis`."""
    turned = np.empty(entries.shape)
    product = np.empty(entries.shape[1:])
    for n in range(len(table)):
        np.multiply(entries[0], table[0, n], out=turned[n])
        for k in range(1, len(table)):
            np.multiply(entries[k], table[k, n], out=product)
            turned[n] += product  # two roundings: a product and a sum are never one instruction
    return np.moveaxis(turned, 0, axis)
