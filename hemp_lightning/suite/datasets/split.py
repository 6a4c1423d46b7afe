"""The seeded cut of a training set into training and validation."""

from __future__ import annotations

import torch
from torch import Tensor


def split_indices(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Cut `count` samples into a training and a validation part at random.

    The cut depends on nothing but the three arguments: not on the global generator, so that runs
    with different training seeds can share one split.

    Args:
        count: Number of samples.
        fraction: Share of them that goes to validation, above 0 and below 1.
        seed: Seed of the permutation.

    Returns:
        Ascending int64 indices `(num_train,)` and `(num_val,)`, disjoint, together all samples.

    Raises:
        ValueError: The fraction is not between 0 and 1, or leaves a part empty.

    Example:
        >>> train, val = split_indices(10, 0.2, seed=0)
        >>> len(train), len(val)
        (8, 2)
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(
            f"`dataset.val_fraction`: expected a number between 0 and 1; found {fraction}"
        )
    num_val = round(count * fraction)
    if not 0 < num_val < count:
        raise ValueError(
            f"`dataset.val_fraction`: {fraction} of {count} samples leaves "
            f"{count - num_val} to train and {num_val} to validate; expected at least 1 of each"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[num_val:].sort().values, order[:num_val].sort().values
