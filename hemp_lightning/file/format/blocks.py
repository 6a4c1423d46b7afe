"""Blocks: entries of one storage, in the shortest of the ways that `hemp_reader` reads."""

from __future__ import annotations

import numpy as np

from hemp_lightning.coding import CODERS, Coder, get_coder
from hemp_reader.bitstream import fold_sign, golomb_encode, golomb_parameter, varint
from hemp_reader.format.blocks import AS_IS, BOUND, DIFFERENCES, MAX_DIFFERENCES, PLANES
from hemp_reader.format.storages import INTEGERS, Storage

_MAX_CONTEXT = 2**16  # entries


def write_block(words: np.ndarray, storage: Storage) -> bytes:
    """A block with these words, as `to_words` gives them: the shortest of the three methods.

    Example:
        >>> from hemp_reader.format.storages import STORAGES
        >>> write_block(np.array([1200, 1200, 1200], np.uint64), STORAGES[8]).hex()  # int64
        '020000785800'
    """
    methods = [b"".join([bytes([PLANES]), *_planes(words)])]
    if storage.dtype in INTEGERS and words.size <= MAX_DIFFERENCES:
        values = words.view(np.dtype(storage.dtype))
        if -BOUND < int(values.min()) and int(values.max()) < BOUND:
            methods.append(bytes([DIFFERENCES]) + _differences(values.astype(np.int64)))
    best = min(methods, key=len)
    if words.nbytes < len(best):  # not before: a copy of all words is a large one
        best = bytes([AS_IS]) + _little(words).tobytes()
    return best


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


def _differences(values: np.ndarray) -> bytes:
    """Differences to the entry before, their sign in the lowest bit, as Golomb codes."""
    steps = np.diff(values, prepend=0)
    folded = fold_sign(steps)
    k = golomb_parameter(folded)
    bits = np.packbits(golomb_encode(folded, k), bitorder="little")
    return bytes([k]) + bits.tobytes()
