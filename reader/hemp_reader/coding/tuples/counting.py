"""How often each tuple of indices occurs, and the bits that follow from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hemp_reader.coding.indices import gather
from hemp_reader.scan_order import scan_axes

MAX_CELLS = 2**62
"""Up to here tuples are numbered, in int64."""

_FEW_CELLS = 2**12
_MANY_CELLS = 2**22
_PIECE = 2**16  # tuples that are counted at a time, a multiple of 8; numbers need more than tuples


def counted_entropy(
    indices: np.ndarray, num_levels: int, order: int, *, scan: str = "row_major"
) -> float:
    """Empirical n-th order entropy of indices, in bits per weight.

    The indices that fill no tuple are counted as tuples of length 1.

    Args:
        indices: Integers in `[0, num_levels)`, any shape.
        num_levels: Size of the alphabet.
        order: Length n of the tuples, at least 1.
        scan: Scan order, one of `hemp_reader.scan_order.SCANS`.

    Returns:
        Rate in bits per weight, from 0 to `log2(num_levels)`.

    Raises:
        TypeError: If `order` is no integer.
        ValueError: If an argument is out of range.

    Example:
        >>> round(counted_entropy(np.array([0, 1, 0, 1, 0, 1, 1, 0]), 2, order=2), 4)
        0.4056
    """
    check_order(order)
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"`indices` must be integers; found {indices.dtype}")
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < num_levels:
        raise ValueError(
            f"`indices` must be in [0, {num_levels}); found {indices.min()} to {indices.max()}"
        )
    flat = indices.transpose(scan_axes(scan, indices.ndim)).reshape(-1)
    tuples = flat[: len(flat) // order * order].reshape(-1, order)
    left_over = flat[tuples.size :, None]
    bits = least_bits(tuples, num_levels) + least_bits(left_over, num_levels)
    return bits / max(1, len(flat))


def check_order(order: int) -> None:
    """Refuse an `order` that is no integer or below 1."""
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"`order` must be an integer; found {order!r}")
    if order < 1:
        raise ValueError(f"`order` must be at least 1; found {order}")


def least_bits(tuples: np.ndarray, num_levels: int, these: np.ndarray | None = None) -> float:
    """`T * H_n` of tuples, or of some of them.

    Args:
        tuples: Integers in `[0, num_levels)`, `(T, n)`.
        num_levels: Size of the alphabet.
        these: Which tuples to count, as bits that `np.packbits` packed; all if None.

    Example:
        >>> least_bits(np.array([[0, 1], [0, 1], [1, 1], [1, 0]]), num_levels=2)
        6.0
    """
    num_cells = num_levels ** tuples.shape[1]
    if num_cells <= max(_FEW_CELLS, len(tuples)):
        counts = np.zeros(num_cells, np.int64)
        for start in range(0, len(tuples), _PIECE):
            piece = tuples[start : start + _PIECE]
            piece = piece if these is None else piece[unpacked(these, start, len(piece))]
            counts += np.bincount(_numbers(piece, num_levels), minlength=num_cells)
        counts = counts[counts > 0]
    else:
        some = tuples if these is None else tuples[unpacked(these, 0, len(tuples))]
        if num_cells <= MAX_CELLS:
            counts = np.unique(_numbers(some, num_levels), return_counts=True)[1]
        else:
            counts = np.unique(some, axis=0, return_counts=True)[1]
    return float((counts * np.log2(counts.sum() / counts)).sum())


def count_tuples(
    tuples: np.ndarray, num_levels: int
) -> tuple[np.ndarray, np.ndarray, Callable[[slice], np.ndarray]]:
    """The distinct tuples by number, how often each occurs, and which of them some tuples are.

    Args:
        tuples: Integers in `[0, num_levels)`, `(T, n)`; no more than `MAX_CELLS` are possible.
        num_levels: Size of the alphabet.

    Returns:
        Numbers, ascending, int64 `(U,)`; counts, int64 `(U,)`; a function from a slice of the
        tuples to their places among the numbers.

    Example:
        >>> cells, counts, ranks_of = count_tuples(np.array([[0, 1], [1, 1], [0, 1]]), num_levels=2)
        >>> cells, counts, ranks_of(slice(0, 3))
        (array([1, 3]), array([2, 1]), array([0, 1, 0], dtype=int32))
    """
    num_cells = num_levels ** tuples.shape[1]
    # Sorting is slower here than in `least_bits`: places are wanted too.
    if num_cells > max(_FEW_CELLS, len(tuples), min(16 * len(tuples), _MANY_CELLS)):
        numbers = _numbers(tuples, num_levels)
        distinct, ranks, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        return distinct, counts, lambda these: ranks[these]
    counts = np.zeros(num_cells, np.int64)
    for start in range(0, len(tuples), _PIECE):
        numbers = _numbers(tuples[start : start + _PIECE], num_levels)
        counts += np.bincount(numbers, minlength=num_cells)
    cells = np.flatnonzero(counts)
    rank_of = np.cumsum(counts > 0, dtype=np.int32) - 1
    return cells, counts[cells], lambda these: gather(rank_of, _numbers(tuples[these], num_levels))


def unpacked(bits: np.ndarray, start: int, count: int) -> np.ndarray:
    """`count` of the bits that `np.packbits` packed, from `start`, a multiple of 8, as bool."""
    return np.unpackbits(bits[start // 8 :], count=count).view(bool)


def _numbers(tuples: np.ndarray, num_levels: int) -> np.ndarray:
    """The number of each tuple, int32 or int64 `(T,)`."""
    small = num_levels ** tuples.shape[1] <= 2**31
    numbers = tuples[:, 0].astype(np.int32 if small else np.int64)
    for place in range(1, tuples.shape[1]):
        numbers *= num_levels
        numbers += tuples[:, place].astype(numbers.dtype, copy=False)
    return numbers
