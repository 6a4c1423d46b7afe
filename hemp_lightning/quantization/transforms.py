"""Transforms: an orthonormal change of basis of each kernel before it is quantized.

Kernels of convolutions are smooth, so their cosine coefficients say the same in fewer bits: most of
a kernel is in its low frequencies. The transform is orthonormal, so an error of the coefficients is
an error of the same size of the weights, and one codebook fits all frequencies.

`hemp_reader.transforms` undoes it, to the same weights on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hemp_reader.cosines import cosine_table, turned
from hemp_reader.transforms import TRANSFORMS, is_transformable, kernel_axes

MIN_GAIN = 0.01
"""Bits per weight that the cosine transform must promise to be taken."""

MAX_DISTINCT = 256
"""Weights with at most so many distinct values are quantized already."""


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
    return turned(weights, [cosine_table(extent).T for extent in kernel_axes(weights.shape)])


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
