"""Transforms: which changes of the basis of each kernel a file may name, and of which kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

TRANSFORMS = ("none", "dct")
"""Transforms, by the number that stands for each in a file and never changes."""

MAX_EXTENT = 64
"""The most places of a kernel along one axis that a transform takes."""

MAX_KERNEL = 1024
"""The most places of a kernel that a transform takes."""

MAX_LEVEL = 2.0**96
"""The largest level of coefficients: sums of these are finite in float32."""


def kernel_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Extents of the kernel in a weight of shape `(O, I, *kernel)`; none with fewer than 3 axes.

    Example:
        >>> kernel_axes((16, 3, 5, 5)), kernel_axes((16, 3))
        ((5, 5), ())
    """
    return tuple(shape[2:])


def is_transformable(shape: Sequence[int]) -> bool:
    """Whether a tensor of that shape has kernels that a transform changes.

    Example:
        >>> is_transformable((8, 1, 3, 3)), is_transformable((8, 4, 1, 1))
        (True, False)
    """
    kernel = kernel_axes(shape)
    size = math.prod(kernel)
    return len(kernel) <= 3 and 1 < size <= MAX_KERNEL and max(kernel) <= MAX_EXTENT
