"""Tensors for the tests of the context coders, and the second decoder."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np

from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.coding.context.fast_coder import FastCoder
from hemp_lightning.coding.context.frequency_coder import FrequencyCoder

CODERS = {"context": ContextCoder, "fast": FastCoder, "frequency": FrequencyCoder}
GOLDEN = Path(__file__).parents[2] / "data" / "context_golden.json"


def noise(seed: int, shape: tuple[int, ...], num_levels: int, peak: float) -> np.ndarray:
    """Indices around the middle, the same with every version of every library."""
    rng = random.Random(seed)
    draws = []
    for _ in range(math.prod(shape)):
        step = 0
        while step < num_levels and rng.random() > peak:
            step += 1
        index = num_levels // 2 + (step if rng.random() < 0.5 else -step)
        draws.append(min(max(index, 0), num_levels - 1))
    return np.array(draws, np.int64).reshape(shape)


def level_noise(seed: int, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
    """Indices that are all equally likely."""
    rng = random.Random(seed)
    return np.array([rng.randrange(num_levels) for _ in range(math.prod(shape))]).reshape(shape)


def sparse(seed: int, shape: tuple[int, int], num_levels: int) -> np.ndarray:
    """Few indices off the middle, in few rows."""
    rng = random.Random(seed)
    indices = np.full(shape, num_levels // 2)
    for row in range(0, shape[0], 5):
        for column in range(shape[1]):
            if rng.random() < 0.2:
                indices[row, column] = rng.randrange(num_levels)
    return indices


CASES = {
    "convolution": (noise(1, (9, 4, 3, 3), 17, 0.35), 17),
    "linear": (noise(2, (12, 30), 16, 0.2), 16),
    "sparse": (sparse(3, (40, 25), 7), 7),
    "one_sided": (np.abs(noise(4, (10, 20), 9, 0.5) - 4), 5),
    "top_level": (8 - np.abs(noise(5, (200,), 17, 0.5) - 8), 9),
    "half": (np.concatenate([noise(6, (20, 10), 15, 0.4), 15 - noise(7, (20, 10), 15, 0.4)]), 16),
    "many_levels": (noise(7, (15, 20), 3000, 0.01), 3000),
    "sixteen_bits": (noise(8, (300,), 65536, 0.0005), 65536),
    "two_levels": (noise(9, (8, 5, 2, 2, 2), 2, 0.4), 2),
    "silent": (np.full((5, 6), 3), 7),
    "plain": (level_noise(10, (7, 30), 11), 11),
}
