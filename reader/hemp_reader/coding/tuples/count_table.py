"""Tables of counts: which cells occur and how often, in few bytes and with no floating point.

A count keeps less than half of its binary digits. More would cost more bits in the table than they
save in the coded indices: a frequency measured from `c` events is uncertain by `sqrt(c)` anyway
(J. Rissanen, *Modeling by shortest data description*, Automatica 14 (1978)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hemp_reader.bitstream import (
    BitReader,
    ByteReader,
    bit_length,
    golomb_encode,
    golomb_parameter,
    varint,
)
from hemp_reader.errors import HempFileError

MAX_LISTED = 65_535
"""The most cells that a table lists: with the rest they are numbered in 16 bits."""

PRECISION = 24
"""The weights of a table sum to 2^24, the resolution of constriction's models."""

_MAX_DIGITS = 36  # of a count; times 2^24 it still fits in an int64
_DIGITS = np.arange(_MAX_DIGITS + 2)
_KEPT = np.maximum(_DIGITS - 3, 0) // 2  # how many digits after the first one are kept
_FIRST = np.concatenate([[0], np.cumsum(1 << _KEPT)[:-1]])  # code of the least such count
_MAX_CODE = int(_FIRST[-1]) - 1


def encode_counts(counts: np.ndarray) -> np.ndarray:
    """Count codes, int64: 0 for 0, ascending with the count, about `sqrt(count)` of them.

    Example:
        >>> encode_counts(np.array([0, 1, 2, 3, 4, 100, 1_000_000]))
        array([   0,    1,    2,    2,    3,   11, 1001])
    """
    digits = bit_length(counts)
    kept = _KEPT[digits]
    leading = counts >> np.maximum(digits - 1 - kept, 0)
    return np.where(counts > 0, _FIRST[digits] + leading - (1 << kept), 0)


def decode_counts(codes: np.ndarray) -> np.ndarray:
    """The middle of the counts that share a code, int64; `codes` up to that of 2^36 - 1.

    Example:
        >>> decode_counts(np.array([0, 1, 2, 3, 11, 1001]))
        array([      0,       1,       3,       6,     104, 1000448])
    """
    digits = np.searchsorted(_FIRST, codes, side="right") - 1
    kept = _KEPT[digits]
    shift = np.maximum(digits - 1 - kept, 0)
    leading = codes - _FIRST[digits] + (1 << kept)
    return np.where(codes > 0, (leading << shift) + ((1 << shift) >> 1), 0)


@dataclass(frozen=True)
class CountTable:
    """Cells that occur, with count codes; and how much lies in cells that are not listed.

    The symbols of the model are, in this order, the escape (if `codes[0]` is not 0), then the
    listed cells.

    Attributes:
        cells: Numbers of the listed cells, ascending, int64 `(U,)`.
        codes: Count codes, int64 `(U + 1,)`; that of the escape first.

    Example:
        >>> table = CountTable.count(np.array([2, 7, 8]), np.array([90, 9, 1]), unlisted=0)
        >>> table.to_bytes().hex(), table.weights()
        ('0300f2220b', array([14617771,  1993333,   166112]))
    """

    cells: np.ndarray
    codes: np.ndarray

    @classmethod
    def count(cls, cells: np.ndarray, counts: np.ndarray, unlisted: int) -> CountTable:
        """The table of `counts` (each at least 1), and of `unlisted` other things."""
        return cls(cells, encode_counts(np.concatenate([[unlisted], counts])))

    @property
    def has_escape(self) -> bool:
        """Whether something is not listed, so that the first symbol is the escape."""
        return bool(self.codes[0])

    def weights(self) -> np.ndarray:
        """Integer weights of the symbols, int64, each at least 1, their sum 2^24."""
        counts = decode_counts(self.codes[0 if self.has_escape else 1 :])
        whole = 1 << PRECISION
        weights = 1 + counts * (whole - len(counts)) // int(counts.sum())
        weights[np.argmax(counts)] += whole - int(weights.sum())
        return weights

    def to_bytes(self) -> bytes:
        """The table as a payload holds it."""
        gaps = np.diff(self.cells, prepend=-1) - 1
        codes = self.codes - np.minimum(np.arange(len(self.codes)), 1)
        k_gaps, k_codes = min(golomb_parameter(gaps), 31), min(golomb_parameter(codes), 7)
        bits = np.concatenate([golomb_encode(gaps, k_gaps), golomb_encode(codes, k_codes)])
        head = varint(len(gaps)) + bytes([k_gaps | k_codes << 5])
        return head + np.packbits(bits, bitorder="little").tobytes()

    @classmethod
    def read(cls, reader: ByteReader, num_cells: int, total: int) -> CountTable:
        """Read a table of `total` things that lie in `num_cells` cells.

        Raises:
            HempFileError: If there is none, or none for that many.
        """
        start = reader.offset
        size = reader.varint("number of listed cells", min(MAX_LISTED, num_cells, total))
        parameters = reader.byte("parameters of the table")
        bits = BitReader(reader, 2 * size + 1)
        gaps = bits.golomb(size, parameters & 31, "cells")
        codes = bits.golomb(size + 1, parameters >> 5, "count codes")
        bits.finish()
        highest = sum(gaps.tolist()) + size - 1  # Python's integers do not overflow
        if highest >= num_cells:
            raise HempFileError(None, start, f"cells below {num_cells}", f"cell {highest}")
        if int(codes.max()) >= _MAX_CODE:
            raise HempFileError(None, start, f"codes up to {_MAX_CODE}", str(int(codes.max())))
        codes[1:] += 1
        if not codes.any():
            raise HempFileError(None, start, "a table with an entry", "an empty one")
        return cls(np.cumsum(gaps + 1) - 1, codes)
