"""Blocks: entries of one storage, stored as they are, in the shortest of three ways."""

from __future__ import annotations

import numpy as np
import torch

from hemp_lightning.coding import CODERS, Coder, get_coder
from hemp_lightning.file.format.storages import INTEGERS, Storage
from hemp_reader.bitstream import (
    BitReader,
    ByteReader,
    fold_sign,
    golomb_encode,
    golomb_parameter,
    unfold_sign,
    varint,
)
from hemp_reader.coding import decoder_by_id
from hemp_reader.errors import HempFileError, located

_AS_IS, _PLANES, _DIFFERENCES = 0, 1, 2
_MAX_DIFFERENCES = 2**16  # entries; more of them deserve no code that is made for counters
_MAX_CONTEXT = 2**16  # entries
_BOUND = 2**59  # of entries in a block of differences


def write_block(words: np.ndarray, storage: Storage) -> bytes:
    """A block with these words, as `to_words` gives them: the shortest of the three methods.

    Example:
        >>> from hemp_lightning.file.format.storages import STORAGES
        >>> write_block(np.array([1200, 1200, 1200], np.uint64), STORAGES[8]).hex()  # int64
        '020000785800'
    """
    methods = [b"".join([bytes([_PLANES]), *_planes(words)])]
    if storage.dtype in INTEGERS and words.size <= _MAX_DIFFERENCES:
        values = words.view(_integer_dtype(storage))
        if -_BOUND < int(values.min()) and int(values.max()) < _BOUND:
            methods.append(bytes([_DIFFERENCES]) + _differences(values.astype(np.int64)))
    best = min(methods, key=len)
    if words.nbytes < len(best):  # not before: a copy of all words is a large one
        best = bytes([_AS_IS]) + _little(words).tobytes()
    return best


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
    if method == _AS_IS:
        data = reader.view(count * storage.word, "entries")
        words = np.frombuffer(data, f"<u{storage.word}").astype(f"u{storage.word}", copy=False)
    elif method == _PLANES:
        words = _read_planes(reader, count, storage.word, keeps_words)
    elif method == _DIFFERENCES and storage.dtype in INTEGERS and count <= _MAX_DIFFERENCES:
        words = _read_differences(reader, count, _integer_dtype(storage))
    else:
        raise HempFileError(None, start, f"a method for {storage.label}", str(method))
    if storage.dtype == torch.bool and int(words.max()) > 1:
        raise HempFileError(None, start, "entries 0 and 1 of a bool tensor", str(int(words.max())))
    return words


def _little(words: np.ndarray) -> np.ndarray:
    return words.astype(words.dtype.newbyteorder("<"), copy=False)


def _planes(words: np.ndarray) -> list[bytes]:
    """First bytes of all words, then second bytes and so on, each plane with its own coder."""
    parts = []
    for plane in _little(words).view(np.uint8).reshape(len(words), -1).T:
        plane = np.ascontiguousarray(plane)
        best = bytes([CODERS["raw"].number]) + plane.tobytes()
        for coder in _plane_coders(len(plane)):
            coded = coder.encode(plane, 256)
            head = bytes([CODERS[coder.name].number]) + varint(len(coded))
            best = min(best, head + coded, key=len)
        parts.append(best)
    return parts


def _plane_coders(size: int) -> list[Coder]:
    """Coders to try on a plane; in large ones the bytes are not worth the time of the second."""
    tuples = get_coder("tuples", order=1)
    return [tuples, get_coder("context")] if size <= _MAX_CONTEXT else [tuples]


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
    if number == CODERS["raw"].number:
        return np.frombuffer(reader.view(count, "a plane"), np.uint8)
    if number not in (CODERS["tuples"].number, CODERS["context"].number):
        raise HempFileError(None, start, "coder 0, 1 or 2 of a plane", str(number))
    size = reader.varint("size of a plane")
    start = reader.offset
    coded = reader.take(size, "a plane")
    with located(start):
        return decoder_by_id(number).decode(coded, (count,), 256)


def _differences(values: np.ndarray) -> bytes:
    """Differences to the entry before, their sign in the lowest bit, as Golomb codes."""
    steps = np.diff(values, prepend=0)
    folded = fold_sign(steps)
    k = golomb_parameter(folded)
    bits = np.packbits(golomb_encode(folded, k), bitorder="little")
    return bytes([k]) + bits.tobytes()


def _read_differences(reader: ByteReader, count: int, dtype: np.dtype) -> np.ndarray:
    start = reader.offset
    k = reader.byte("parameter of a block")
    bits = BitReader(reader, count)
    folded = bits.golomb(count, k, "differences")
    bits.finish()
    steps = unfold_sign(folded)
    # Where a sum in float64 stays below 2^60, the same sum in int64 has not overflowed.
    if float(np.abs(np.cumsum(steps.astype(np.float64))).max()) > 2 * _BOUND:
        raise HempFileError(None, start, f"entries that fit {dtype}", "larger ones")
    values = np.cumsum(steps)
    limits = np.iinfo(dtype)
    if int(values.min()) < limits.min or int(values.max()) > limits.max:
        raise HempFileError(None, start, f"entries that fit {dtype}", "larger ones")
    return values.astype(dtype).view(f"u{dtype.itemsize}")


def _integer_dtype(storage: Storage) -> np.dtype:
    sign = "u" if str(storage.dtype).startswith("torch.u") else "i"
    return np.dtype(f"{sign}{storage.word}")
