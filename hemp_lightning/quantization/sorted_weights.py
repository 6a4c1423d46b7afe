"""Weights in ascending order, for quantizers that ask for borders of cells and sums between them.

On the CPU they are dealt to buckets by the leading bits of their float32, and a bucket is sorted
when a border falls into it: a fit asks for few borders again and again, and most weights are never
compared. Everything is exact, and the same on any number of threads. Elsewhere they are sorted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.quantization import sorted_weights_loops as loops

MAX_BUCKET_BITS = 16
PER_BUCKET = 6
"""Buckets are made for at least `2^6` weights each, if these spread evenly."""


class BucketedWeights:
    """Weights on the CPU, sorted bucket by bucket where it is asked for.

    Args:
        weights: float32 `(num_weights,)`, finite, at least 1.
    """

    def __init__(self, weights: Tensor) -> None:
        array = weights.contiguous().numpy()
        bits = min(MAX_BUCKET_BITS, max(0, len(array).bit_length() - PER_BUCKET))
        self.shift = 32 - bits
        counts = np.zeros(1 << bits, np.int64)
        loops.count_buckets(array.view(np.int32), self.shift, counts)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.values = np.empty_like(array)
        loops.deal(array.view(np.int32), self.shift, self.starts[:-1].copy(), self.values)
        sums = np.zeros(1 << bits)
        loops.sum_between(self.values, self.starts[:-1], self.starts[1:], sums)
        self.heads = np.concatenate([[0.0], np.cumsum(sums)])
        self.is_sorted = counts < 2

    def __len__(self) -> int:
        return len(self.values)

    def borders(self, thresholds: np.ndarray) -> np.ndarray:
        """How many weights lie below each threshold, float32 `(n,)`: int64 `(n,)`."""
        keys = np.empty(len(thresholds), np.int64)
        loops.bucket_of(np.ascontiguousarray(thresholds).view(np.int32), self.shift, keys)
        self._sort(keys)
        found = np.empty(len(thresholds), np.int64)
        loops.search(self.values, self.starts, keys, thresholds, found)
        return found

    def sums_up_to(self, positions: np.ndarray) -> np.ndarray:
        """Sum in float64 of the weights before each position, int64 `(n,)`."""
        keys = self._keys_at(positions)
        rest = np.empty(len(positions))
        loops.sum_between(self.values, self.starts[keys], positions, rest)
        return self.heads[keys] + rest

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Weights at positions in ascending order, float64 `(n,)`."""
        self._keys_at(positions)
        return self.values[positions].astype(np.float64)

    def _keys_at(self, positions: np.ndarray) -> np.ndarray:
        """Bucket of each position, sorted."""
        keys = np.searchsorted(self.starts[1:-1], positions, side="right")
        self._sort(keys)
        return keys

    def _sort(self, keys: np.ndarray) -> None:
        for key in np.unique(keys[~self.is_sorted[keys]]):
            self.values[self.starts[key] : self.starts[key + 1]].sort()
            self.is_sorted[key] = True


class SortedWeights:
    """Weights on any device, all of them sorted; see `BucketedWeights`."""

    BLOCK = 256

    def __init__(self, weights: Tensor) -> None:
        self.values = weights.sort().values
        whole = self.values[: len(weights) // self.BLOCK * self.BLOCK].view(-1, self.BLOCK)
        sums = whole.sum(1, dtype=torch.float64).cumsum(0)
        self.heads = torch.cat([sums.new_zeros(1), sums])
        self.within = torch.arange(self.BLOCK, device=weights.device)

    def __len__(self) -> int:
        return len(self.values)

    def borders(self, thresholds: np.ndarray) -> np.ndarray:
        """How many weights lie below each threshold, float32 `(n,)`: int64 `(n,)`."""
        values = torch.from_numpy(thresholds).to(self.values.device)
        return torch.searchsorted(self.values, values).cpu().numpy()

    def sums_up_to(self, positions: np.ndarray) -> np.ndarray:
        """Sum in float64 of the weights before each position, int64 `(n,)`."""
        ends = torch.from_numpy(positions).to(self.values.device)
        blocks = ends // self.BLOCK
        places = blocks[:, None] * self.BLOCK + self.within
        rest = self.values[places.clamp_max(len(self) - 1)].double()
        rest = (rest * (places < ends[:, None])).sum(1)
        return (self.heads[blocks] + rest).cpu().numpy()

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Weights at positions in ascending order, float64 `(n,)`."""
        where = torch.from_numpy(positions).to(self.values.device)
        return self.values[where].double().cpu().numpy()


def sort_weights(weights: Tensor) -> BucketedWeights | SortedWeights:
    """The weights, float32 `(num_weights,)`, finite, at least 1, in ascending order."""
    return (BucketedWeights if weights.device.type == "cpu" else SortedWeights)(weights)
