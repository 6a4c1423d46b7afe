"""What every coder is: indices and their shape in, bytes out, and back."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from hemp_reader.coding import Decoder
from hemp_reader.coding.indices import index_dtype
from hemp_reader.limits import MAX_LEVELS


class Coder(Decoder, Protocol):
    """Indices <-> bytes, without loss.

    It decodes as `hemp_reader.coding.Decoder` says, and whatever the options of the coder were
    stands in the payload. A payload does not notice damage by itself; the container's checksums do.
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
