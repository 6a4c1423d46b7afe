"""A codebook for weights or for their cosine coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer
from hemp_lightning.quantization.transforms import asked_transform, best_transform

LEAST_GAIN = -0.2
"""Bits per weight that cosines may seem to cost: kernels become smooth in training."""


def fit_transformed(
    quantizer: Quantizer,
    name: str,
    weights: Tensor,
    transform: str | Mapping[str, str],
    before: Codebook | None = None,
) -> Codebook:
    """A codebook of weights, with the transform that it had before, or a chosen one.

    Args:
        quantizer: Fits the levels.
        name: Name of the tensor.
        weights: Any shape, floating, on any device.
        transform: `auto`, `dct`, `none`, or these by name.
        before: The codebook to start from.

    Returns:
        On the device of the weights.

    Example:
        >>> weights = torch.linspace(-1, 1, 180).reshape(4, 5, 3, 3)
        >>> from hemp_lightning.quantization.quantizers import UniformQuantizer
        >>> fit_transformed(UniformQuantizer(5), "w", weights, "auto").transform
        'dct'
    """
    if before is not None:
        chosen = before.transform
    else:
        chosen = asked_transform(transform, name, weights.shape)
        if chosen == "auto":
            chosen = best_transform(weights.float().cpu().numpy(), LEAST_GAIN)
    seen = Codebook(torch.zeros(1), transform=chosen).coefficients(weights)
    fitted = quantizer.fit(seen, before.plain() if before is not None else None)
    return replace(fitted.half_precision(), transform=chosen).to(weights.device)
