"""Levels in few bytes: 16-bit floats as the gaps between them, others as they are."""

from __future__ import annotations

import numpy as np

from hemp_reader.bitstream import (
    BitReader,
    ByteReader,
    fold_sign,
    golomb_encode,
    golomb_parameter,
    unfold_sign,
)
from hemp_reader.errors import HempFileError

_LARGEST = 0x7BFF  # ordinal of the largest finite float16


def needs_wide(levels: np.ndarray) -> bool:
    """Whether float16 does not hold each of the float32 levels, bit for bit.

    The level -0.0 counts as not held: among ordinals there is only one 0.

    Example:
        >>> needs_wide(np.float32([-0.5, 0.25])), needs_wide(np.float32([0.1]))
        (False, True)
    """
    if np.abs(levels).max() > 65504:
        return True
    held = levels.astype(np.float16).astype(np.float32)
    return bool((held != levels).any() or (np.signbit(levels) & (levels == 0)).any())


def write_levels(narrow: list[np.ndarray], wide: list[np.ndarray]) -> bytes:
    """The levels of several tensors: those that float16 holds, then the others as float32.

    Float16 values have an ordinal each, their bits without the sign, negative for negative values.
    Of each tensor stand the first ordinal, its sign folded, and the gaps to the next
    ones less 1; common zeros at the end of all the ordinals are left out.

    Example:
        >>> write_levels([np.float32([-1, 0, 1])], []).hex()
        'a4dedc01'
    """
    parts = []
    if narrow:
        ordinals = [_ordinals(levels) for levels in narrow]
        ones = int(np.bitwise_or.reduce(np.abs(np.concatenate(ordinals))))
        shift = (ones & -ones).bit_length() - 1 if ones else 0
        values = []
        for ordinal in ordinals:
            short = ordinal >> shift
            values += [fold_sign(short[:1]), np.diff(short) - 1]
        joined = np.concatenate(values)
        k = min(golomb_parameter(joined), 15)
        bits = np.packbits(golomb_encode(joined, k), bitorder="little")
        parts += [bytes([shift << 4 | k]), bits.tobytes()]
    return b"".join(parts + [levels.astype("<f4").tobytes() for levels in wide])


def read_levels(
    reader: ByteReader, narrow: list[int], wide: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Levels, float32, of so many tensors with these numbers of levels.

    Raises:
        HempFileError: If they are not finite and strictly ascending, or the bytes end before.
    """
    start = reader.offset
    narrow_levels = []
    if narrow:
        parameters = reader.byte("parameters of the levels")
        bits = BitReader(reader, sum(narrow))
        values = bits.golomb(sum(narrow), parameters & 15, "levels")
        bits.finish()
        if int(values.max()) > 2 * _LARGEST + 1:
            raise HempFileError(None, start, "levels of 16 bits", "wider ones")
        shift = parameters >> 4
        for part in np.split(values, np.cumsum(narrow)[:-1]):
            ordinals = np.cumsum(np.concatenate([unfold_sign(part[:1]), part[1:] + 1])) << shift
            size = np.abs(ordinals)
            if int(size.max()) > _LARGEST:
                raise HempFileError(None, start, "finite levels", "others")
            half = (size | (ordinals < 0).astype(np.int64) << 15).astype(np.uint16)
            narrow_levels.append(half.view(np.float16).astype(np.float32))
    wide_levels = []
    for count in wide:
        start = reader.offset
        data = reader.take(4 * count, "levels")
        levels = np.frombuffer(data, "<f4").astype(np.float32)
        if not np.isfinite(levels).all() or not (levels[1:] > levels[:-1]).all():
            raise HempFileError(None, start, "finite, strictly ascending levels", "others")
        wide_levels.append(levels)
    return narrow_levels, wide_levels


def _ordinals(levels: np.ndarray) -> np.ndarray:
    bits = levels.astype(np.float16).view(np.uint16).astype(np.int64)
    return np.where(bits < 0x8000, bits, 0x8000 - bits)
