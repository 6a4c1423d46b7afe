"""How often each tuple of indices occurs, and the bits that follow from it."""

from __future__ import annotations

import numpy as np

from hemp_lightning.ground.scan_order import scan_axes

_FEW_CELLS = 2**12
_PIECE = 2**16  # tuples that are counted at a time


def counted_entropy(
    indices: np.ndarray, num_levels: int, order: int, *, scan: str = "row_major"
) -> float:
    """Empirical n-th order entropy of indices, in bits per weight.

    The indices that fill no tuple are counted as tuples of length 1.

    Args:
        indices: Integers in `[0, num_levels)`, any shape.
        num_levels: Size of the alphabet.
        order: Length n of the tuples, at least 1.
        scan: Scan order, one of `hemp_lightning.ground.scan_order.SCANS`.

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
    bits = _counted_bits(tuples, num_levels) + _counted_bits(flat[tuples.size :, None], num_levels)
    return bits / max(1, len(flat))


def check_order(order: int) -> None:
    """Refuse an `order` that is no integer or below 1."""
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"`order` must be an integer; found {order!r}")
    if order < 1:
        raise ValueError(f"`order` must be at least 1; found {order}")


def _counted_bits(tuples: np.ndarray, num_levels: int) -> float:
    """`T * H_n` of tuples, integers `(T, n)`."""
    if not len(tuples):
        return 0.0
    num_cells = num_levels ** tuples.shape[1]
    if num_cells <= max(_FEW_CELLS, len(tuples)):
        counts = np.zeros(num_cells, np.int64)
        for start in range(0, len(tuples), _PIECE):  # a tensor of int64 indices is a large one
            numbers = _numbers(tuples[start : start + _PIECE], num_levels)
            counts += np.bincount(numbers, minlength=num_cells)
        counts = counts[counts > 0]
    elif num_cells < 1 << 62:
        counts = np.unique(_numbers(tuples, num_levels), return_counts=True)[1]
    else:
        counts = np.unique(tuples, axis=0, return_counts=True)[1]
    # max: no "-0.0" for a single tuple
    return max(0.0, -float((counts * np.log2(counts / len(tuples))).sum()))


def _numbers(tuples: np.ndarray, num_levels: int) -> np.ndarray:
    """The cell of each tuple, int64 `(T,)`."""
    numbers = np.zeros(len(tuples), np.int64)
    for column in tuples.T:
        numbers *= num_levels
        numbers += column.astype(np.int64, copy=False)
    return numbers
