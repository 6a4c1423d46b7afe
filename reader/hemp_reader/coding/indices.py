"""Arrays of indices: their dtype, and work on large ones piece by piece."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.errors import HempFileError

_PIECE = 2**18


def index_dtype(num_levels: int) -> type[np.unsignedinteger[Any]]:
    """Smallest dtype that holds the indices: uint8 up to 256 levels, else uint16.

    Example:
        >>> index_dtype(256).__name__, index_dtype(257).__name__
        ('uint8', 'uint16')
    """
    return np.uint8 if num_levels <= 256 else np.uint16


def gather(table: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows of `table` at `positions`, `(N,)`, which lie in it.

    NumPy turns positions into eight bytes each first; piece by piece that costs no memory.

    Example:
        >>> gather(np.array([0.5, 2.0]), np.array([1, 1, 0], np.uint8))
        array([2. , 2. , 0.5])
    """
    rows = np.empty((len(positions), *table.shape[1:]), table.dtype)
    for start in range(0, len(positions), _PIECE):
        piece = positions[start : start + _PIECE]
        np.take(table, piece, axis=0, out=rows[start : start + _PIECE], mode="clip")
    return rows


def tally(indices: np.ndarray, num_levels: int) -> np.ndarray:
    """How often each level occurs, int64 `(num_levels,)`, in pieces as `gather` works.

    Example:
        >>> tally(np.array([[1, 1, 0]], np.uint8), 3)
        array([1, 2, 0])
    """
    flat = indices.reshape(-1)
    counts = np.zeros(num_levels, np.int64)
    for start in range(0, len(flat), _PIECE):
        counts += np.bincount(flat[start : start + _PIECE], minlength=num_levels)
    return counts


def is_trivial(shape: tuple[int, ...], num_levels: int) -> bool:
    """Whether shape and number of levels already say every index, so that the payload is empty."""
    return num_levels == 1 or math.prod(shape) == 0


def trivial_indices(data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
    """The indices of an `is_trivial` payload.

    Raises:
        HempFileError: If the payload is not empty.
    """
    if data:
        raise HempFileError(None, 0, "an empty payload", f"{len(data)} bytes")
    return np.zeros(shape, index_dtype(num_levels))
