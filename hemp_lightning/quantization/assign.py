"""Levels in the place of weights, in one pass over them, on the CPU."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.ground.threads import run_jobs
from hemp_lightning.quantization import assign_loops as loops


def quantize(weights: Tensor, thresholds: Tensor, levels: Tensor, out: Tensor) -> None:
    """Fill `out` with `levels[bucketize(weights, thresholds, right=True)]`.

    Args:
        weights: float32, any shape, contiguous, on the CPU; NaN stays NaN.
        thresholds: float32 `(num_levels - 1,)`, ascending.
        levels: float32 `(num_levels,)`.
        out: float32, of the shape of `weights`, contiguous.
    """
    source, target = (tensor.detach().view(-1).numpy() for tensor in (weights, out))
    borders, values = thresholds.numpy(), levels.numpy()
    bounds = np.linspace(0, len(source), torch.get_num_threads() + 1).astype(int)

    def run(job: tuple[int, int, int, int]) -> None:
        _, begin, end, _ = job
        loops.quantize(source[begin:end], borders, values, target[begin:end])

    run_jobs(run, [[(0, int(a), int(b), 0)] for a, b in pairwise(bounds)])
