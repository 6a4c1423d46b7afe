"""Augmentation of whole batches of uint8 images: no per-sample Python, no PIL."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Shift each image by its own random number of pixels, zeros coming in at the border.

    The same as padding with zeros on all sides and cropping at random, the usual augmentation of
    CIFAR (`pixels=4`).

    Args:
        images: `(batch, channels, height, width)`, any dtype.
        pixels: Largest shift in each direction; each of the `2 * pixels + 1` is equally likely.

    Returns:
        Images of the same shape and dtype.

    Example:
        >>> random_shift(torch.ones(4, 1, 8, 8), 2).shape
        torch.Size([4, 1, 8, 8])
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (pixels, pixels, pixels, pixels))
    top = torch.randint(2 * pixels + 1, (batch, 1))
    left = torch.randint(2 * pixels + 1, (batch, 1))
    rows = (top + torch.arange(height)).view(batch, 1, height, 1)
    columns = (left + torch.arange(width)).view(batch, 1, 1, width)
    wide = padded.shape[3]
    picked = padded.gather(2, rows.expand(batch, channels, height, wide))
    return picked.gather(3, columns.expand(batch, channels, height, width))


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        images: `(batch, channels, height, width)`, any dtype.

    Returns:
        Images of the same shape and dtype.

    Example:
        >>> random_flip(torch.ones(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(mirrored, images.flip(3), images)
