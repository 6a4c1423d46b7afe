"""Scan orders: the sequence in which the weights of a tensor are cut into tuples.

A weight tensor of a convolution has the shape `(O, I, *kernel)`: output channels, input channels,
kernel positions; that of a linear layer `(O, I)`. The scan says which axis runs fastest, so whether
neighbours in a tuple are neighbours in the kernel, in the input or in the output.
"""

from __future__ import annotations

SCANS = ("row_major", "kernel", "input", "output")


def check_scan(scan: str) -> str:
    """Return `scan` if it is one of `SCANS`.

    Raises:
        ValueError: If it is not.
    """
    if scan not in SCANS:
        raise ValueError(f"`scan` must be one of {', '.join(SCANS)}; found {scan!r}")
    return scan


def scan_axes(scan: str, ndim: int) -> tuple[int, ...]:
    """Permutation of the axes after which row-major order is the scan order.

    | scan | order of the axes | neighbours in a tuple are |
    |---|---|---|
    | `row_major` | `(O, I, *kernel)` | kernel positions, then input channels |
    | `kernel` | `(I, O, *kernel)` | kernel positions, then output channels |
    | `input` | `(O, *kernel, I)` | input channels |
    | `output` | `(I, *kernel, O)` | output channels |

    Args:
        scan: One of `SCANS`.
        ndim: Number of axes of the tensor; with fewer than two there is only one order.

    Returns:
        The permutation, for `numpy.transpose` and `torch.permute` alike.

    Raises:
        ValueError: If `scan` is unknown.

    Example:
        >>> scan_axes("input", 4)
        (0, 2, 3, 1)
        >>> scan_axes("output", 2)
        (1, 0)
    """
    check_scan(scan)
    if ndim < 2:
        return tuple(range(ndim))
    kernel = tuple(range(2, ndim))
    return {
        "row_major": (0, 1, *kernel),
        "kernel": (1, 0, *kernel),
        "input": (0, *kernel, 1),
        "output": (1, *kernel, 0),
    }[scan]
