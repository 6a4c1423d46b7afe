"""Second-order rounding: what a weight loses when it is rounded, the weights after it make good.

Column by column of a weight matrix, each entry takes the multiple of the step that costs the least
in squared error of the layer's outputs and in code length, and the error that is left is carried
on to the columns that are still real. With the second moments `A` of the layer's inputs, in units
`u` of the step, and `C` the upper Cholesky factor of `A^-1`:

    q_c = argmin (u_c - q)^2 / 2 + price * C_cc^2 * bits(q)        u_j -= (u_c - q_c) C_cj / C_cc

Source: B. Hassibi, D. Stork, *Second order derivatives for network pruning*, NIPS 1992; E. Frantar
et al., *GPTQ*, ICLR 2023, for the columns and the factor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hemp_lightning.coding.context.frequency_coder import context_coder
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.transforms import coefficients_of, kernel_matrix, weights_of

WIDE = 1.6
"""Steps by the rate that they would have at high rate, times this, as measured on ResNet-20."""

DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it."""

PRICE = math.log(2) / (12 * WIDE**2)
"""Squared steps, in units of the diagonal of A, that a bit is worth."""

MOST_LEVELS = 64
"""Up to here lengths are those of the context coder; with more levels contexts say little."""

_BLOCK = 64
_ROW_RANGE = 8.0  # most and least that a row may count beside the mean


def step_for(sensitivity: Tensor, weights: Tensor, price: float) -> float:
    """Step of a tensor for a price of bits, common to all tensors.

    Args:
        sensitivity: Curvature of the loss along single weights, `(num_rows,)`.
        weights: The tensor.
        price: Loss units that a bit is worth, above 0.

    Returns:
        Weight units; at most twice the largest weight.

    Example:
        >>> round(step_for(torch.ones(2), torch.ones(2, 3), 0.01), 4)
        0.6657
    """
    largest = 2 * float(weights.detach().abs().max())
    curvature = float(sensitivity.double().mean())
    if curvature <= 0:
        return largest
    return min(largest, WIDE * math.sqrt(12 * price / (math.log(2) * curvature)))


def round_tensor(
    weights: Tensor,
    step: float,
    sensitivity: Tensor,
    factor: Tensor | None,
    transform: str = "none",
    passes: int = 2,
) -> tuple[Tensor, Codebook]:
    """Round a tensor to multiples of `step`, or its coefficients under a transform.

    Args:
        weights: `(rows, ...)`, float32.
        step: Distance of levels, above 0; 0 for a tensor of zeros.
        sensitivity: How much each row counts, `(rows,)`.
        factor: Of the second moments of the layer's inputs, see `factor_of`; None where they are
            not known, for rounding with a price alone.
        transform: One of `hemp_lightning.quantization.transforms.TRANSFORMS`.
        passes: Rounds; from the second on, lengths are those of the coder in the contexts of the
            round before.

    Returns:
        The rounded weights, of the shape of `weights`, and the codebook that they lie on.
    """
    if not step:
        return torch.zeros_like(weights), Codebook(torch.zeros(1))
    own = coefficients_of(weights.detach().float(), transform)
    matrix = own.reshape(len(own), -1) / step
    rows, columns = matrix.shape
    groups = 1 if factor is None else len(factor)
    prices = PRICE * (sensitivity.mean() / sensitivity.clamp_min(1e-30))
    prices = prices.clamp(PRICE / _ROW_RANGE, PRICE * _ROW_RANGE).to(matrix).reshape(groups, -1)
    grouped = matrix.reshape(groups, rows // groups, columns)
    indices = matrix.round()
    for attempt in range(passes):
        low = int(indices.min().clamp_max(0)) - (attempt == 0)
        high = int(indices.max().clamp_min(0)) + (attempt == 0)
        in_context = transform if attempt else None
        lengths = _lengths(indices.reshape(own.shape), low, high, in_context)
        lengths = lengths.reshape(*((groups, rows // groups, columns) if attempt else ()), -1)
        if not attempt or high - low >= MOST_LEVELS:
            lengths = lengths.reshape(-1)
        indices = _columns(grouped, factor, prices, lengths.to(matrix), low).reshape(matrix.shape)
        if high - low >= MOST_LEVELS:
            break
    used = torch.unique(indices).cpu()
    book = Codebook(torch.unique((used.double() * step).float()), transform=transform)
    book = book.half_precision()
    levels = book.levels.to(indices.device)
    if len(levels) == len(used):  # level by level: half precision moves them a little
        values = levels[torch.searchsorted(used.to(indices.device), indices)]
    else:
        values = indices * step
    return weights_of(values.reshape(own.shape), transform).to(weights), book


def _columns(
    matrix: Tensor, factor: Tensor | None, prices: Tensor, lengths: Tensor, low: int
) -> Tensor:
    """Indices of `matrix`, `(groups, rows, columns)`, column after column."""
    real, found = matrix.clone(), torch.empty_like(matrix)
    size = matrix.shape[2]
    high = low + lengths.shape[-1] - 1
    for start in range(0, size, _BLOCK):
        end = min(size, start + _BLOCK)
        errors = torch.zeros_like(real[:, :, start:end])
        for c in range(start, end):
            u = real[:, :, c]
            scale = 1.0 if factor is None else factor[:, c, c, None]
            near = u.round().clamp(low, high)
            choices = torch.stack([torch.zeros_like(u), near, u.trunc().clamp(low, high)])
            places = (choices - low).long()
            if lengths.ndim == 1:
                bits = lengths[places]
            else:
                bits = (
                    lengths[:, :, c]
                    .expand(3, *lengths[:, :, c].shape)
                    .gather(-1, places[..., None])[..., 0]
                )
            costs = (u - choices).square() / 2 + prices * scale**2 * bits
            chosen = choices.gather(0, costs.argmin(0, keepdim=True))[0]
            found[:, :, c] = chosen
            if factor is not None:
                errors[:, :, c - start] = error = (u - chosen) / scale
                real[:, :, c:end] -= error[..., None] * factor[:, None, c, c:end]
        if factor is not None and end < size:
            real[:, :, end:] -= errors @ factor[:, start:end, end:]
    return found


def factor_of(second: Tensor, shape: torch.Size, transform: str = "none") -> Tensor:
    """What carries errors from column to column: the upper Cholesky factor of `A^-1`.

    Args:
        second: Mean of `x x^T` over inputs of the layer, `(groups, columns, columns)`. It is scaled
            to a mean of 1 on its diagonal, and damped.
        shape: Of the weights.
        transform: Under which they are rounded.

    Returns:
        float32, of the shape of `second`.

    Example:
        >>> round(factor_of(4 * torch.eye(3)[None], torch.Size((2, 3)))[0, 0, 0].item(), 3)
        0.995
    """
    second = _turned(second, shape, transform).double()
    size = second.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    second = second / size.clamp_min(1e-30)
    second.diagonal(dim1=1, dim2=2).add_(DAMPING)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(second))
    return torch.linalg.cholesky(inverse, upper=True).float()


def _turned(second: Tensor, shape: torch.Size, transform: str) -> Tensor:
    """Second moments for coefficients in the place of weights."""
    if transform == "none":
        return second
    turn = torch.from_numpy(kernel_matrix(shape)).to(second)  # (frequencies, places)
    places = len(turn)
    blocks = second.unflatten(2, (-1, places)).unflatten(1, (-1, places))
    turned = torch.einsum("fp,gipjq,hq->gifjh", turn, blocks, turn)
    return turned.reshape(second.shape)


def _lengths(indices: Tensor, low: int, high: int, transform: str | None) -> Tensor:
    """Bits of the levels from `low` to `high`: of all, or with a transform of each index."""
    count = high - low + 1
    shifted = (indices - low).long().cpu()
    if transform is not None and count <= MOST_LEVELS:
        return torch.from_numpy(context_coder(transform).lengths(shifted.numpy(), count))
    counts = torch.bincount(shifted.reshape(-1), minlength=count).double() + 0.5
    return -torch.log2(counts / counts.sum()).float()
