"""Blocks: entries of one storage, stored as they are, in one of three ways."""

from __future__ import annotations

import numpy as np

from hemp_reader.bitstream import (
    BitReader,
    ByteReader,
    unfold_sign,
)
from hemp_reader.coding import CONTEXT, RAW, TUPLES, decoder_by_id
from hemp_reader.errors import HempFileError, located
from hemp_reader.format.storages import INTEGERS, Storage

AS_IS, PLANES, DIFFERENCES = 0, 1, 2
MAX_DIFFERENCES = 2**16  # entries; more of them deserve no code that is made for counters
BOUND = 2**59  # of entries in a block of differences


def read_block(
    reader: ByteReader, count: int, storage: Storage, *, keeps_words: bool = True
) -> np.ndarray:
    """`count` words, native unsigned integers.

    With `keeps_words=False` they are checked, but those of planes do not come back.

    Raises:
        HempFileError: If there is no such block.
    """
    start = reader.offset
    method = reader.byte("method of a block")
    if method == AS_IS:
        data = reader.view(count * storage.word, "entries")
        words = np.frombuffer(data, f"<u{storage.word}").astype(f"u{storage.word}", copy=False)
    elif method == PLANES:
        words = _read_planes(reader, count, storage.word, keeps_words)
    elif method == DIFFERENCES and storage.dtype in INTEGERS and count <= MAX_DIFFERENCES:
        words = _read_differences(reader, count, np.dtype(storage.dtype))
    else:
        raise HempFileError(None, start, f"a method for {storage.label}", str(method))
    if storage.dtype == "bool" and int(words.max()) > 1:
        raise HempFileError(None, start, "entries 0 and 1 of a bool tensor", str(int(words.max())))
    return words


def _read_planes(reader: ByteReader, count: int, word: int, keeps_words: bool) -> np.ndarray:
    # a tensor of bools has one plane, whose words are looked at
    planes = np.empty((count, word), np.uint8) if keeps_words or word == 1 else None
    for place in range(word):
        plane = _read_plane(reader, count)
        if planes is not None:
            planes[:, place] = plane
        del plane  # before the next is read
    if planes is None:
        return np.zeros(0, f"u{word}")
    return planes.view(f"<u{word}").reshape(count).astype(f"u{word}", copy=False)


def _read_plane(reader: ByteReader, count: int) -> np.ndarray:
    start = reader.offset
    number = reader.byte("coder of a plane")
    if number == RAW:
        return np.frombuffer(reader.view(count, "a plane"), np.uint8)
    if number not in (TUPLES, CONTEXT):
        raise HempFileError(None, start, "coder 0, 1 or 2 of a plane", str(number))
    size = reader.varint("size of a plane")
    start = reader.offset
    coded = reader.take(size, "a plane")
    with located(start):
        return decoder_by_id(number).decode(coded, (count,), 256)


def _read_differences(reader: ByteReader, count: int, dtype: np.dtype) -> np.ndarray:
    start = reader.offset
    k = reader.byte("parameter of a block")
    bits = BitReader(reader, count)
    folded = bits.golomb(count, k, "differences")
    bits.finish()
    steps = unfold_sign(folded)
    # Where a sum in float64 stays below 2^60, the same sum in int64 has not overflowed.
    if float(np.abs(np.cumsum(steps.astype(np.float64))).max()) > 2 * BOUND:
        raise HempFileError(None, start, f"entries that fit {dtype}", "larger ones")
    values = np.cumsum(steps)
    limits = np.iinfo(dtype)
    if int(values.min()) < limits.min or int(values.max()) > limits.max:
        raise HempFileError(None, start, f"entries that fit {dtype}", "larger ones")
    return values.astype(dtype).view(f"u{dtype.itemsize}")
