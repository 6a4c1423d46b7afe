"""Code lengths of weights that lie between two levels, and their gradient, compiled with numba."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.ground.threads import PART, run_jobs
from hemp_reader.numba_tools import jit

BLOCK = 512
"""Weights that are compared with one level after the other: they stay in the nearest cache."""


@jit
def pay(weights, levels, lengths, count, gradient):  # type: ignore[no-untyped-def]
    """Bits of some weights; fills `gradient` with that of the bits over `count`."""
    size = weights.shape[0]
    cells = np.empty(BLOCK, np.int32)  # the last level at or below each weight, but one
    bits = 0.0
    for start in range(0, size, BLOCK):
        these = weights[start : start + BLOCK]
        for t in range(these.shape[0]):
            cells[t] = 0
        for k in range(1, levels.shape[0] - 1):
            level = levels[k]
            for t in range(these.shape[0]):
                cells[t] += these[t] >= level
        for t in range(these.shape[0]):
            cell = cells[t]
            gap = levels[cell + 1] - levels[cell]
            place = (these[t] - levels[cell]) / gap
            lower = lengths[start + t, cell]
            step = lengths[start + t, cell + 1] - lower
            inside = min(max(place, np.float32(0)), np.float32(1))
            bits += lower + inside * step
            pulls = place >= 0 and place < 1
            gradient[start + t] = step / (gap * count) if pulls else np.float32(0)
    return bits


def bits_and_gradient(
    weights: Tensor, levels: Tensor, lengths: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Bits of a tensor whose levels have known code lengths, and the gradient of the bits a weight.

    Args:
        weights: float32, any shape, on the CPU.
        levels: float32 `(num_levels,)`, at least 2, strictly ascending.
        lengths: Bits of each level at each weight, float32, shape of `weights` and `num_levels`.
        count: How many weights share the rate.

    Returns:
        Bits, a float64 scalar, the same on any number of threads; the gradient of `bits / count`,
        of the shape of `weights`.
    """
    flat = weights.contiguous().view(-1).numpy()
    borders, table = levels.numpy(), lengths.contiguous().view(-1, len(levels)).numpy()
    gradient = torch.empty(weights.shape, dtype=torch.float32)
    out = gradient.view(-1).numpy()
    starts = range(0, len(flat), PART)
    bits = np.zeros(len(starts))

    def run(job: tuple[int, int, int, int]) -> None:
        part, begin, end, _ = job
        bits[part] = pay(
            flat[begin:end], borders, table[begin:end], np.float32(count), out[begin:end]
        )

    run_jobs(run, [[(p, begin, min(begin + PART, len(flat)), 0)] for p, begin in enumerate(starts)])
    return torch.tensor(bits.sum(), dtype=torch.float64), gradient
