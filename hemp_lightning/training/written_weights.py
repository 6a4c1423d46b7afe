"""What forward passes write to quantized weights: noticed, and carried over to the real ones."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def carried(real: Tensor, put: Tensor, found: Tensor) -> Tensor:
    """Real weights after the change that their quantized ones have seen.

    Args:
        real: Real weights.
        put: Their quantized weights, same shape.
        found: What these have become, same shape.

    Returns:
        `real` where nothing changed. Where a quantized weight shrank, as under `max_norm` or
        `clamp_`, the real one shrinks by the same factor, and at least to the size of the
        quantized one. Every other change is taken as it is.

    Example:
        >>> real, put = torch.tensor([0.8, 1.2, 0.9, 0.1]), torch.tensor([1.0, 1.0, 1.0, 0.0])
        >>> carried(real, put, torch.tensor([0.5, 0.5, 1.0, 7.0]))
        tensor([0.4000, 0.5000, 0.9000, 7.0000])
    """
    shrank = (found.abs() < put.abs()) & (found * put >= 0) & (real * put > 0)
    factor = found / torch.where(put == 0, torch.ones_like(put), put)
    smaller = torch.minimum((real * factor).abs(), found.abs()) * real.sign()
    return torch.where(found == put, real, torch.where(shrank, smaller, found))


def versions(parameter: Tensor, tensor: Tensor) -> tuple[int, int | None]:
    """How often both were written to; tensors of inference mode do not count."""
    own = -1 if parameter.is_inference() else parameter._version
    return own, None if tensor.is_inference() else tensor._version


def total(tensor: Tensor) -> float | None:
    """The sum of the entries; None on a GPU, which would be waited for."""
    return tensor.detach().sum(dtype=_WIDE.get(tensor.dtype)).item() if tensor.is_cpu else None
