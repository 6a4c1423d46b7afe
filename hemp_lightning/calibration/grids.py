"""Uniform grids for the tensors of a network, with steps from one number for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hemp_lightning.quantization.codebook import MAX_LEVELS, Codebook
from hemp_lightning.quantization.transforms import best_transform, coefficients_of

SHARE = 0.75
"""Power of the number of weights by which a tensor shares in the error."""

FEW = 64
"""Tensors with fewer entries stay in float: their bytes are few and their entries count much."""


def quantizable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters worth quantizing, by name: floating, two axes longer than 1, not tiny.

    A shared parameter is there once, by its first name.

    Example:
        >>> list(quantizable(nn.Sequential(nn.Linear(9, 9), nn.LSTM(4, 4))))
        ['0.weight', '1.weight_ih_l0', '1.weight_hh_l0']
    """
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.is_floating_point()
        and parameter.numel() >= FEW
        and sum(extent > 1 for extent in parameter.shape) >= 2
    }


def steps_of(
    weights: Mapping[str, Tensor], error: float, curvatures: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Steps of all tensors from one number.

    With curvatures each weight makes the same share of the error of the outputs, at which a bit
    more or less pays the same everywhere. No step is wider than the deviation of its tensor, while
    `error` is small. Without curvatures a tensor of `n` weights makes a relative squared error in
    proportion to `n^0.75`: between equal errors for all tensors, and errors per weight.

    Args:
        weights: Tensors by name, any shapes.
        error: Relative squared error of the outputs, above 0; without curvatures the sum over
            tensors of squared error / squared weights.
        curvatures: Of the outputs along single weights, see `Probe`; None if not known.

    Returns:
        Steps in units of the weights; 0 for a tensor of zeros.

    Example:
        >>> steps_of({"a": torch.ones(100)}, 0.03)
        {'a': 0.6}
        >>> round(steps_of({"a": torch.ones(100)}, 0.03, {"a": 0.01})["a"], 3)
        0.6
    """
    deviations = {n: float(t.detach().double().square().mean().sqrt()) for n, t in weights.items()}
    if curvatures is not None:
        each = error / sum(tensor.numel() for tensor in weights.values())
        widest = max(1.0, math.sqrt(12 * error))
        return {
            name: min(widest * size, math.sqrt(12 * each / max(curvatures[name], 1e-30)))
            for name, size in deviations.items()
        }
    shares = {name: tensor.numel() ** SHARE for name, tensor in weights.items()}
    total = sum(shares.values())
    return {
        name: size * math.sqrt(12 * error * shares[name] / total)
        for name, size in deviations.items()
    }


def grid_codebook(weights: Tensor, step: float, transform: str = "none") -> Codebook:
    """Codebook of the multiples of `step` from the least to the greatest of `weights`.

    A step that would need more than `MAX_LEVELS` levels is taken wider.

    Args:
        weights: Any shape, floating, finite.
        step: Distance of levels, at least 0; 0 for tensors of zeros.
        transform: Under which the levels lie, one of
            `hemp_lightning.quantization.transforms.TRANSFORMS`.

    Example:
        >>> grid_codebook(torch.tensor([-0.9, 0.2, 0.4]), 0.5).levels
        tensor([-1.0000, -0.5000,  0.0000,  0.5000])
    """
    own = coefficients_of(weights.detach().float(), transform)
    low, high = (float(end) for end in torch.aminmax(own))
    step = max(step, (high - low) / (MAX_LEVELS - 4))
    if not step or not math.isfinite(step):
        return Codebook(torch.zeros(1))
    indices = torch.arange(min(round(low / step), 0), max(round(high / step), 0) + 1)
    levels = torch.unique((indices.double() * step).float())
    return Codebook(levels, transform=transform).half_precision()


def transforms_of(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The transform in which each tensor probably takes the fewest bits."""
    return {n: best_transform(t.detach().float().cpu().numpy()) for n, t in weights.items()}


def grid_codebooks(
    weights: Mapping[str, Tensor],
    error: float,
    transforms: Mapping[str, str],
    curvatures: Mapping[str, float] | None = None,
) -> dict[str, Codebook]:
    """Codebooks of all tensors by the steps of `steps_of`, under their transforms."""
    steps = steps_of(weights, error, curvatures)
    return {n: grid_codebook(t, steps[n], transforms[n]) for n, t in weights.items()}


def relative_errors(weights: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative error of each tensor: the root of squared error over squared weights.

    Example:
        >>> relative_errors({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([3.0, 3.5])})
        {'a': 0.1}
    """
    errors = {}
    for name, tensor in weights.items():
        wanted, own = tensor.detach().double().cpu(), found[name].detach().double().cpu()
        size = float(wanted.norm())
        errors[name] = float((own - wanted).norm()) / size if size else float(own.norm())
    return errors
