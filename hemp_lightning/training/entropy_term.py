"""The two terms of the loss: their values, and their gradients into the parameters.

`loss = task + lambda_entropy * R + lambda_reconstruction * D`, both over all weights that are
trained, whichever optimizer steps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam

from hemp_lightning.entropy.context_lengths import ContextRates
from hemp_lightning.entropy.formula import entropy_and_gradients
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer
from hemp_lightning.quantization.transforms import asked_transform, best_transform, weights_of

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


def rate_and_gradients(
    weights: Mapping[str, Tensor],
    codebooks: Mapping[str, Codebook],
    order: int,
    scope: str,
    scan: str,
    context: ContextRates | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The rate of some tensors, and its gradient.

    Args:
        weights: Weights by name, any shapes.
        codebooks: Codebooks by name; with a transform the rate is that of the coefficients.
        order: Length n of the tuples.
        scope: `tensor` or `network`, see `network_entropy`.
        scan: Scan order.
        context: Where code lengths come from; None for the entropy of the tuples.

    Returns:
        Bits per weight, a scalar; the gradient of each tensor, by name.

    Example:
        >>> books = {"w": Codebook(torch.tensor([0.0, 1.0]))}
        >>> rate, _ = rate_and_gradients(
        ...     {"w": torch.tensor([0.0, 1.0])}, books, 1, "tensor", "row_major"
        ... )
        >>> rate.item()
        1.0
    """
    names = list(weights)
    tensors = [codebooks[name].coefficients(weights[name]) for name in names]
    levels = [codebooks[name].levels for name in names]
    if context is not None:
        rate, gradients = context.rate_and_gradients(names, tensors, levels)
    else:
        rate, gradients = entropy_and_gradients(tensors, levels, order, scope=scope, scan=scan)
    back = [
        weights_of(gradient, codebooks[name].transform)
        for name, gradient in zip(names, gradients, strict=True)
    ]
    return rate, dict(zip(names, back, strict=True))


def distortion_and_errors(
    weights: Mapping[str, Tensor], codebooks: Mapping[str, Codebook]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the quantized weights, a scalar; each weight's error, by name.

    Example:
        >>> books = {"w": Codebook(torch.tensor([0.0, 1.0]))}
        >>> distortion, errors = distortion_and_errors({"w": torch.tensor([0.25, 1.0])}, books)
        >>> distortion.item(), errors["w"].tolist()
        (0.03125, [0.25, 0.0])
    """
    errors = {name: w - codebooks[name].quantize(w) for name, w in weights.items()}
    count = sum(error.numel() for error in errors.values())
    return torch.stack([error.square().sum() for error in errors.values()]).sum() / count, errors


def add_gradient(
    parameter: nn.Parameter,
    gradient: Tensor,
    strength: float,
    optimizer: Optimizer,
    insensitivity: bool = False,
) -> None:
    """Add `strength * gradient` to the gradient of a parameter.

    A sparse gradient becomes dense. For SparseAdam, which takes no dense one, the term acts on the
    rows that the batch has touched.

    Args:
        parameter: Its `grad` is changed.
        gradient: Of one term, of the parameter's shape.
        strength: Factor.
        optimizer: Will step the parameter.
        insensitivity: Scale by `1 - |g| / max|g|`, with `g` the gradient that is there.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> add_gradient(weight, torch.ones(2), 0.5, torch.optim.SGD([weight], lr=1.0))
        >>> weight.grad
        tensor([0.5000, 0.5000])
    """
    grad = parameter.grad
    if isinstance(optimizer, SparseAdam):
        if grad is None:
            return
        grad = grad.coalesce()
        values = grad.values() + strength * gradient[grad.indices()[0]].to(grad.dtype)
        parameter.grad = torch.sparse_coo_tensor(
            grad.indices(), values, grad.shape, is_coalesced=True
        )
        return
    if grad is None:
        parameter.grad = (strength * gradient).to(parameter.dtype)
        return
    if grad.layout != torch.strided:
        grad = parameter.grad = grad.to_dense()
    if insensitivity:
        size = grad.abs()
        gradient = gradient * (1 - size / size.max().clamp_min(torch.finfo(size.dtype).tiny))
    grad.add_(gradient.to(grad.dtype), alpha=strength)


def stepped_names(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], names: Sequence[str]
) -> list[str]:
    """Those of `names` whose parameters an optimizer steps now."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [n for n in names if id(parameters[n]) in stepped and parameters[n].requires_grad]
