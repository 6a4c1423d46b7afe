"""Blocks of steps: biases, norm scales and statistics, on a few hundred values a tensor."""

from __future__ import annotations

import numpy as np

from hemp_reader.bitstream import BitReader, ByteReader, unfold_sign
from hemp_reader.coding import CONTEXT, decoder_by_id
from hemp_reader.coding.indices import tally
from hemp_reader.errors import HempFileError, located
from hemp_reader.limits import MAX_LEVELS

MULTIPLES, DIGITS = 0, 1
MANTISSA = 23
INFINITY = 0x7F800000
LARGEST = 2**24 - 1  # multiple of a step that float32 holds, whatever the step
EXPONENTS = -149, 104  # of steps


def read_steps(reader: ByteReader, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The words of a block, uint32, one tensor after the other, and what share each has in it.

    Args:
        reader: At the beginning of the block.
        counts: Entries of each tensor, at least 1.

    Returns:
        The words, and of each tensor the bits of its entries by their frequencies in the block,
        int64, at least 1: a constant takes less of the block than as many different numbers.

    Raises:
        HempFileError: If there is no such block.
    """
    start = reader.offset
    bits = BitReader(reader, len(counts))
    forms = bits.fixed(np.ones(len(counts), np.int64), "forms of tensors")
    bits.finish()
    shifts, centres = np.zeros((2, len(counts)), np.int64)
    for form in (MULTIPLES, DIGITS):
        count = int((forms == form).sum())
        for numbers in (shifts, centres) if count else ():
            k = reader.byte("parameter of steps")
            bits = BitReader(reader, count)
            changes = unfold_sign(bits.golomb(count, k, "steps and centres"))
            bits.finish()
            if int(np.abs(changes).max()) > 2**32:
                raise HempFileError(None, start, "steps and centres of 32 bits", "larger ones")
            numbers[forms == form] = np.cumsum(changes)
    low = reader.varint("distance of the lowest entry", MAX_LEVELS - 1)
    num_levels = reader.varint("steps between entries", MAX_LEVELS - 1) + 1
    size = reader.varint("size of coded entries")
    offset = reader.offset
    coded = reader.take(size, "coded entries")
    with located(offset):
        indices = decoder_by_id(CONTEXT).decode(coded, (sum(counts),), num_levels)
    whole = indices.astype(np.int64) - low + np.repeat(centres, counts)
    shift, digits = np.repeat(shifts, counts), np.repeat(forms == DIGITS, counts)
    valid = np.where(
        digits,
        (0 <= shift) & (shift <= MANTISSA) & (0 < whole) & (whole <= INFINITY),
        (EXPONENTS[0] <= shift) & (shift <= EXPONENTS[1]) & (np.abs(whole) <= LARGEST),
    )
    words = np.zeros(len(whole), np.int64)
    if valid.all():
        words[digits] = whole[digits] << shift[digits]
    if not valid.all() or int(words.max()) >= INFINITY:
        raise HempFileError(None, start, "finite entries on steps", "others")
    multiples = np.ldexp(whole[~digits].astype(np.float64), shift[~digits].astype(np.int32))
    words[~digits] = multiples.astype(np.float32).view(np.uint32)
    return words.astype(np.uint32), _bits(indices, counts)


def _bits(indices: np.ndarray, counts: list[int]) -> np.ndarray:
    frequencies = tally(indices, int(indices.max()) + 1)
    lengths = np.log2(len(indices)) - np.log2(frequencies[indices])
    starts = np.cumsum([0, *counts[:-1]])
    return np.rint(np.add.reduceat(lengths, starts)).astype(np.int64) + 1  # its form is a bit
