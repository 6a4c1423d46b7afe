"""Sums of mass * log2 mass and logarithms of a table, cell by cell, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from hemp_reader.numba_tools import inlined, jit, unrolled

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


def finish_line(masses, first, size, logs, sums, real):  # type: ignore[no-untyped-def]
    """Logarithms of up to `ROW` cells; adds mass * log2 mass to `sums`. The compiler vectorises it.

    `m = 2^e (1 + s) / (1 - s)` with `|s| < 0.1716`, and `log2 m = e + 2 / ln 2 * atanh s`, in the
    dtype of `real`, a number.
    """
    _make_finish_line(masses, first, size, logs, sums, real)(masses, first, size, logs, sums, real)


@unrolled(finish_line)
def _make_finish_line(masses, first, size, logs, sums, real):  # type: ignore[no-untyped-def]
    kind = np.dtype(str(getattr(real, "dtype", real))).type  # numba gives its type
    integer, bits, root_half, atanh = _FORMATS[kind]
    root_half, bits = integer(root_half), integer(bits)
    one, zero, factor = kind(1), kind(0), kind(2 / np.log(2))

    def take_logarithms(masses, first, size, logs, sums, real):  # type: ignore[no-untyped-def]
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

    return take_logarithms


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
        finish_line(table, start, end - start, logs, sums, np.float64(1))
    return sums.sum()
