"""What every coder is: indices and their shape in, bytes out, and back."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.errors import HempFileError
from hemp_reader.limits import MAX_LEVELS

_PIECE = 2**18


class Coder(Protocol):
    """Indices <-> bytes, without loss.

    A payload is self-contained: with the shape and the number of levels it decodes by itself, and
    whatever the options of the coder were stands in it. It does not notice damage by itself, the
    container's checksums do; but no payload, however hostile, makes `decode` raise anything but
    `HempFileError` or take memory beyond a small multiple of the shape it is asked for.
    """

    name: ClassVar[str]

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        """Code `indices`.

        Args:
            indices: Integers in `[0, num_levels)`, any shape.
            num_levels: From 1 to 65,536.

        Raises:
            TypeError: If `indices` are no integers.
            ValueError: If an index or `num_levels` is out of range.
        """
        ...

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape: uint8 up to 256 levels, else uint16.

        Raises:
            HempFileError: If `data` is no payload of this coder for that shape and `num_levels`;
                its offset counts from the start of `data`.
        """
        ...

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """How many bytes of the payload describe the model and not the indices."""
        ...


def index_dtype(num_levels: int) -> type[np.unsignedinteger[Any]]:
    """Smallest dtype that holds the indices: uint8 up to 256 levels, else uint16.

    Example:
        >>> index_dtype(256).__name__, index_dtype(257).__name__
        ('uint8', 'uint16')
    """
    return np.uint8 if num_levels <= 256 else np.uint16


def check_indices(indices: np.ndarray, num_levels: int) -> np.ndarray:
    """`indices` as an array of `index_dtype(num_levels)`, checked.

    Raises:
        TypeError: If `indices` are no integers.
        ValueError: If an index or `num_levels` is out of range.

    Example:
        >>> check_indices(np.array([[0, 3]]), 4)
        array([[0, 3]], dtype=uint8)
    """
    indices = np.asarray(indices)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"`indices` must be an integer array; found {indices.dtype}")
    if not 1 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"`num_levels` must be from 1 to {MAX_LEVELS}; found {num_levels}")
    if indices.size and not (0 <= int(indices.min()) and int(indices.max()) < num_levels):
        raise ValueError(
            f"`indices` must lie in [0, {num_levels}); "
            f"found {int(indices.min())} to {int(indices.max())}"
        )
    return indices.astype(index_dtype(num_levels), copy=False)


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
