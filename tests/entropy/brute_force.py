"""The entropy of soft assignments by summing over all L^n cells, and weights to try it on."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy.stats import entropy as scipy_entropy

BACKENDS = ["torch", "compiled", "interpreted"]
UNEVEN = torch.tensor([-1.3, -0.4, 0.0, 0.15, 1.1], dtype=torch.float64)


def brute_force_bits(tensors: list[np.ndarray], levels: list[np.ndarray], order: int) -> float:
    """T * H_n of one table shared by the tensors, by summing over every cell of it."""
    tuples = []
    for weights, c in zip(tensors, levels, strict=True):
        soft = np.zeros((len(weights), max(map(len, levels))))
        for p, w in enumerate(weights):
            for i in range(len(c)):
                if i and c[i - 1] <= w < c[i]:
                    soft[p, i] = (w - c[i - 1]) / (c[i] - c[i - 1])
                if i + 1 < len(c) and c[i] <= w < c[i + 1]:
                    soft[p, i] = (c[i + 1] - w) / (c[i + 1] - c[i])
            if w < c[0]:
                soft[p, 0] = 1
            if w >= c[-1]:
                soft[p, len(c) - 1] = 1
        whole = len(weights) // order * order
        tuples.append(soft[:whole].reshape(-1, order, soft.shape[1]))
    joined = np.concatenate(tuples)
    if not len(joined):
        return 0.0
    masses = [
        np.prod([joined[:, j, k] for j, k in enumerate(cell)], axis=0).sum()
        for cell in product(range(joined.shape[2]), repeat=order)
    ]
    return len(joined) * scipy_entropy(masses, base=2)


def brute_force_rate(weights: np.ndarray, levels: np.ndarray, order: int) -> float:
    left = weights[len(weights) // order * order :]
    bits = brute_force_bits([weights], [levels], order) + brute_force_bits([left], [levels], 1)
    return bits / len(weights)


def some_weights(count: int, seed: int = 0) -> torch.Tensor:
    """Weights on both sides of `UNEVEN`, some of them beyond its ends."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator, dtype=torch.float64)
