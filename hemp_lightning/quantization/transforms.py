"""Transforms: an orthonormal change of basis of each kernel before it is quantized.

Kernels of convolutions are smooth, so their cosine coefficients say the same in fewer bits: most of
a kernel is in its low frequencies. The transform is orthonormal, so an error of the coefficients is
an error of the same size of the weights, and one codebook fits all frequencies.

A reader must get the same weights on every machine. `to_weights` and `to_coefficients` therefore
multiply and add numbers of 64 bits one by one in a stated order, and round once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.quantization.transforms_loops import turn
from hemp_reader.numba_tools import IS_COMPILED

TRANSFORMS = ("none", "dct")
"""Transforms, by the number that stands for each in a file and never changes."""

MAX_EXTENT = 64
"""The most places of a kernel along one axis that a transform takes."""

MAX_KERNEL = 1024
"""The most places of a kernel that a transform takes."""

MAX_LEVEL = 2.0**96
"""The largest level of coefficients: sums of these are finite in float32."""

MIN_GAIN = 0.01
"""Bits per weight that the cosine transform must promise to be taken."""

MAX_DISTINCT = 256
"""Weights with at most so many distinct values are quantized already."""

_UNIT = 2**30  # entries of the tables are whole multiples of its inverse
_PIECE = 2**12  # kernels that are turned at a time, between two loads of the cache


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


def check_transform(transform: str | Mapping[str, str]) -> None:
    """Refuse what is no transform.

    Raises:
        ValueError: If it is neither `auto`, one of `TRANSFORMS`, nor a mapping of names to these.

    Example:
        >>> check_transform({"conv.weight": "dct"})
    """
    for name in transform.values() if isinstance(transform, Mapping) else [transform]:
        if name not in ("auto", *TRANSFORMS):
            raise ValueError(
                f"`transform` must be one of auto, {', '.join(TRANSFORMS)}, or a mapping of names "
                f"of tensors to these; found {name!r}"
            )


def asked_transform(transform: str | Mapping[str, str], name: str, shape: Sequence[int]) -> str:
    """What `transform` says of one tensor.

    Args:
        transform: One of `TRANSFORMS` or `auto`, or these by the names of tensors, of which the
            others have none.
        name: Name of the tensor.
        shape: Its shape. A tensor without kernels has no transform, whatever is asked for.

    Example:
        >>> asked_transform("auto", "conv.weight", (8, 4, 3, 3))
        'auto'
        >>> asked_transform("dct", "fc.weight", (8, 4))
        'none'
    """
    wanted = transform.get(name, "none") if isinstance(transform, Mapping) else transform
    return wanted if is_transformable(shape) else "none"


def best_transform(weights: np.ndarray, least_gain: float = MIN_GAIN) -> str:
    """The transform in which weights probably need the fewest bits: what `auto` stands for.

    Each place of the kernel, and each frequency, is taken as a source of its own, whose rate at a
    given error grows with the logarithm of its mean magnitude. Weights that take few distinct
    values are quantized already, and sparse ones have small magnitudes on their places: both keep
    their places.

    Args:
        weights: float32 or float64, any shape.
        least_gain: Bits per weight that the cosine transform must promise to be taken; below 0,
            also kernels take it that will only become smooth in training.

    Example:
        >>> smooth = np.random.default_rng(0).normal(size=(400, 5, 1, 1)) + np.zeros((3, 3))
        >>> best_transform(smooth), best_transform(np.sign(smooth))
        ('dct', 'none')
    """
    if not is_transformable(weights.shape) or _is_quantized(weights):
        return "none"
    places, frequencies = (
        np.abs(entries).reshape(-1, math.prod(kernel_axes(weights.shape))).mean(0, np.float64)
        for entries in (weights, to_coefficients(weights))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log2(places).mean() - np.log2(frequencies).mean()
    return "dct" if gain > least_gain else "none"  # NaN, of zeros alone, is no gain


def _is_quantized(weights: np.ndarray) -> bool:
    """Whether there are few distinct values, several times each."""
    most = min(MAX_DISTINCT, weights.size // 4)
    sample = weights.reshape(-1)[:: max(1, weights.size // (64 * MAX_DISTINCT))]
    return len(np.unique(sample)) <= most and len(np.unique(weights)) <= most


@lru_cache(maxsize=MAX_EXTENT)
def cosine_table(extent: int) -> np.ndarray:
    """The orthonormal cosine transform (DCT-II) of that many places.

    Each entry is a multiple of `2^-30`, the nearest one, so it is the same wherever cosines are
    known to nine digits.

    Args:
        extent: From 1 to `MAX_EXTENT`.

    Returns:
        float64 `(extent, extent)`: row k holds `sqrt((2 - (k == 0)) / extent) *
        cos(pi * (2 * n + 1) * k / (2 * extent))` for the places n.

    Example:
        >>> cosine_table(2)
        array([[ 0.70710678,  0.70710678],
               [ 0.70710678, -0.70710678]])
    """
    table = np.empty((extent, extent))
    for k in range(extent):
        scale = math.sqrt((2 if k else 1) / extent)
        for n in range(extent):
            cosine = math.cos(math.pi * ((2 * n + 1) * k % (4 * extent)) / (2 * extent))
            table[k, n] = round(_UNIT * scale * cosine) / _UNIT
    table.flags.writeable = False
    return table


def to_coefficients(weights: np.ndarray) -> np.ndarray:
    """Coefficients of the kernels of `(O, I, *kernel)`; lowest frequencies first on each axis.

    Args:
        weights: float32 or float64, a shape that `is_transformable`.

    Returns:
        float32, of the same shape.

    Example:
        >>> to_coefficients(np.ones((1, 1, 2, 2), np.float32))[0, 0].round(6)
        array([[2., 0.],
               [0., 0.]], dtype=float32)
    """
    return _turned(weights, [cosine_table(extent).T for extent in kernel_axes(weights.shape)])


def to_weights(coefficients: np.ndarray) -> np.ndarray:
    """Weights with these coefficients, the same bits on every machine.

    For each axis of the kernel in turn, the first one first, place n becomes
    `(table[0, n] * z_0 + table[1, n] * z_1) + table[2, n] * z_2 + ...` in float64; at the end the
    numbers are rounded to float32.

    Args:
        coefficients: float32, a shape that `is_transformable`.

    Returns:
        float32, of the same shape.

    Example:
        >>> to_weights(np.array([[[2.0, 0.0]]], np.float32))
        array([[[1.4142135, 1.4142135]]], dtype=float32)
    """
    return _turned(coefficients, [cosine_table(n) for n in kernel_axes(coefficients.shape)])


def _turned(entries: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """`sum_k table[k, n] * entries[k]` along each axis of the kernel, in the order of k."""
    if not IS_COMPILED:
        return _turned_plainly(entries, tables)
    extents = np.array(kernel_axes(entries.shape), np.int64)
    flat = np.ascontiguousarray(entries).reshape(-1, math.prod(extents.tolist()))
    out = np.empty(flat.shape, np.float32)
    turn(flat, extents, np.concatenate([table.reshape(-1) for table in tables]), out)
    return out.reshape(entries.shape)


def _turned_plainly(entries: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """`_turned` without a compiler."""
    kernel = kernel_axes(entries.shape)
    flat = entries.reshape(-1, *kernel)
    out = np.empty(flat.shape, np.float32)
    last_first = (*range(1, len(kernel) + 1), 0)
    for start in range(0, len(flat), _PIECE):
        # kernels lie side by side, so that NumPy's loops are long
        held = flat[start : start + _PIECE].transpose(last_first).astype(np.float64, order="C")
        for axis, table in enumerate(tables):
            held = _along(np.moveaxis(held, axis, 0), table, axis)
        out[start : start + _PIECE] = np.moveaxis(held, -1, 0)
    return out.reshape(entries.shape)


def _along(entries: np.ndarray, table: np.ndarray, axis: int) -> np.ndarray:
    """One axis of `_turned`, which is the first one of `entries` and is put back to `axis`."""
    turned = np.empty(entries.shape)
    product = np.empty(entries.shape[1:])
    for n in range(len(table)):
        np.multiply(entries[0], table[0, n], out=turned[n])
        for k in range(1, len(table)):
            np.multiply(entries[k], table[k, n], out=product)
            turned[n] += product  # two roundings: a product and a sum are never one instruction
    return np.moveaxis(turned, 0, axis)


def kernel_matrix(shape: Sequence[int]) -> np.ndarray:
    """The transform of a whole kernel, for matrix products: `z = weights.reshape(-1, K) @ M.T`.

    Args:
        shape: Of the tensor; it `is_transformable`.

    Returns:
        float64 `(K, K)`, K places of the kernel in row-major order.

    Example:
        >>> kernel_matrix((4, 4, 3, 3)).shape
        (9, 9)
    """
    matrix = np.ones((1, 1))
    for extent in kernel_axes(shape):
        matrix = np.kron(matrix, cosine_table(extent))
    return matrix


def coefficients_of(weights: Tensor, transform: str) -> Tensor:
    """What a codebook sees of weights, by a matrix product, differentiable.

    Args:
        weights: `(O, I, *kernel)`, floating, on any device.
        transform: One of `TRANSFORMS`.

    Returns:
        Of the shape, dtype and device of `weights`, which come back themselves with `none`.

    Example:
        >>> coefficients_of(torch.ones(1, 1, 2, 2), "dct").flatten().round(decimals=4).tolist()
        [2.0, 0.0, 0.0, 0.0]
    """
    return weights if transform == "none" else _product(weights, transposed=True)


def weights_of(coefficients: Tensor, transform: str) -> Tensor:
    """The inverse of `coefficients_of`, and its adjoint: the transform is orthonormal.

    Example:
        >>> weights = torch.arange(18.0).reshape(2, 1, 3, 3)
        >>> back = weights_of(coefficients_of(weights, "dct"), "dct")
        >>> torch.allclose(back, weights, atol=1e-5)
        True
    """
    return coefficients if transform == "none" else _product(coefficients, transposed=False)


def _product(entries: Tensor, transposed: bool) -> Tensor:
    matrix = torch.as_tensor(_kernel_matrix(kernel_axes(entries.shape)))
    matrix = matrix.to(entries.device, entries.dtype)
    flat = entries.reshape(-1, len(matrix))
    return (flat @ (matrix.T if transposed else matrix)).reshape(entries.shape)


@lru_cache(maxsize=64)
def _kernel_matrix(kernel: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(kernel_matrix((1, 1, *kernel)))
