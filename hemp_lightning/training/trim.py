"""Trimming: a few bytes too many are taken from the rarest levels, by one price for all tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.thresholds import cheapest_cells

NEAR = 0.995
"""Share of the wanted bytes at which trimming has gone as far as it must."""

MAX_TRIM = 64.0


def trim(
    weights: Mapping[str, Tensor],
    codebooks: Mapping[str, Codebook],
    target: float,
    num_bytes: Callable[[Mapping[str, Codebook]], int],
) -> dict[str, Codebook]:
    """Codebooks of the same levels whose file has at most `target` bytes, moved no further.

    For a file that is above it now.

    Args:
        weights: Weights by name.
        codebooks: Codebooks by the same names.
        target: Wanted bytes.
        num_bytes: Says how long the file is with some codebooks.

    Returns:
        The codebooks with thresholds moved towards rarer levels by one price for all tensors, the
        least that is enough, to within half a percent.

    Raises:
        ValueError: If even the dearest price leaves the file above `target`.
    """

    def priced(price: float) -> dict[str, Codebook]:
        return {name: rate_aware(codebooks[name], weights[name], price) for name in codebooks}

    low, high = 0.0, 1.0 / 64.0
    while (found := num_bytes(best := priced(high))) > target:
        low, high = high, 2.0 * high
        if high > MAX_TRIM:
            raise ValueError(
                f"`target_bytes` must be within reach of the network; found {target:.0f}, and "
                f"{found:,} bytes with next to no weights left. Raise it, or write less: "
                "`tensors`='layers', `float_dtype`='float16'"
            )
    for _ in range(12):
        middle = (low + high) / 2
        if (found := num_bytes(books := priced(middle))) <= target:
            high, best = middle, books
            if found > NEAR * target:
                break
        else:
            low = middle
    return best


def rate_aware(codebook: Codebook, weights: Tensor, price: float) -> Codebook:
    """The same levels, with thresholds where distortion plus the price of the bits is equal.

    Args:
        codebook: What `weights` are assigned with now.
        weights: Any shape, floating.
        price: Squared error that a bit is worth, in squares of the mean gap of the levels.

    Returns:
        A codebook whose cells of rare levels are smaller.

    Source:
        P. Chou, T. Lookabaugh, R. Gray, *Entropy-constrained vector quantization*, IEEE Trans.
        ASSP 37 (1989).

    Example:
        >>> weights = torch.tensor([0.0] * 15 + [0.6])
        >>> rate_aware(Codebook(torch.tensor([0.0, 1.0])), weights, 0.1).thresholds
        tensor([0.6953])
    """
    if codebook.num_levels < 2:
        return codebook
    levels = codebook.levels.double().cpu().numpy()
    before = codebook.thresholds.double().cpu().numpy()
    gaps = np.diff(levels)
    # the costs that the thresholds of now stand for
    steps = 2 * gaps * (before - (levels[1:] + levels[:-1]) / 2)
    costs = np.concatenate([[0.0], np.cumsum(steps)])
    counts = torch.bincount(codebook.assign(weights).reshape(-1), minlength=len(levels))
    # an unused level costs as much as one that a single weight uses
    bits = -np.log2(counts.clamp_min(1).double().cpu().numpy())
    moved = cheapest_cells(levels, costs + price * gaps.mean() ** 2 * bits)
    thresholds = torch.from_numpy(moved.astype(np.float32))
    return Codebook(codebook.levels, thresholds, codebook.transform)
