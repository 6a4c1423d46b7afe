"""Control of lambda towards a file size or an accuracy, and landing there.

The rules are plain numbers in, plain numbers out; the callback says when.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.file.summary import Summary
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.thresholds import cheapest_cells

AIM = 0.985
"""Training aims a little below the wanted bytes: to trim what is over costs accuracy."""

NEAR = 0.995
"""Share of the wanted bytes at which trimming has gone as far as it must."""

EARLY, LATE = 8.0, 4.0
"""Gain over the whole course, and over what is left of it."""

WINDOW = 0.12
"""Share of what is left of the course over which the speed is averaged."""

REST = 0.015
"""Of the course, added to what is left: at the very end a small distance is no reason to run."""

FLOOR = 0.1
"""Speed, as a share of the whole way, that counts as standing still."""

LAST_THIRD = 2 / 3
MAX_FACTOR = 1e3
MAX_TRIM = 64.0


@dataclass(frozen=True)
class LambdaControl:
    """The factor on lambda, and what is needed to move it on; immutable, a few numbers.

    Args:
        factor: Factor on `lambda_entropy`.
        start: Logarithm of the bytes at the start, None before.
        drop: By how much it has fallen.
        done: Share of the `course` at that moment, 0 to 1.
        speed: `drop` per share of the course, averaged over the last of it.
    """

    factor: float = 1.0
    start: float | None = None
    drop: float = 0.0
    done: float = 0.0
    speed: float = 0.0

    def by_bytes(self, num_bytes: float, target: float, progress: float) -> LambdaControl:
        """Move lambda so that the file, were lambda to stay from now on, ends at the target.

        Sizes are compared by their logarithms. Lambda rises in proportion to the logarithm of the
        speed that is needed over the speed that there is, and faster the less is left: nearly
        constant lambda, which costs less accuracy than one that starts low and ends high.

        Args:
            num_bytes: Size that the file would have now.
            target: Wanted size.
            progress: Share of training that is done, 0 to 1.

        Example:
            >>> control = LambdaControl().by_bytes(1000, 100, 0.0)
            >>> control.by_bytes(1000, 100, 0.1).factor > 1
            True
        """
        size = math.log(num_bytes)
        start = size if self.start is None else self.start
        drop, wanted = start - size, start - math.log(target * AIM)
        done = course(progress)
        step, left = max(0.0, done - self.done), 1.0 - done + REST
        speed = self.speed
        if step:
            new = 1.0 - math.exp(-step / (WINDOW * left))
            speed += new * ((drop - self.drop) / step - speed)
        still = FLOOR * max(abs(wanted), FLOOR)
        needed = max(0.0, (wanted - drop) / left)
        ratio = (needed + still) / (max(0.0, speed) + still)
        # nothing shrinks before the first weights have crossed a threshold: no reason to run away
        change = (EARLY + LATE / left) * step * min(1.0, math.log(ratio))
        return replace(self._moved(change), start=start, drop=drop, done=done, speed=speed)

    def by_accuracy(self, accuracy: float, target: float, progress: float) -> LambdaControl:
        """Raise lambda while the error is below the allowed one, and lower it above.

        In the last third it only falls, and fast: no time is left to make good for too much.

        Args:
            accuracy: Accuracy of the quantized network, 0 to 1.
            target: Wanted accuracy.
            progress: Share of training that is done, 0 to 1.

        Example:
            >>> round(LambdaControl().by_accuracy(0.99, 0.98, 0.5).factor, 3)
            1.414
        """
        room = math.log((1.0 - target) / max(1.0 - accuracy, 1e-4))
        if progress < LAST_THIRD:
            return self._moved(max(-0.7, min(0.7, 0.5 * room)))
        return self._moved(max(-2.0, min(0.0, 4.0 * room)))

    def _moved(self, change: float) -> LambdaControl:
        factor = self.factor * math.exp(change)
        return replace(self, factor=min(MAX_FACTOR, max(1.0 / MAX_FACTOR, factor)))


def course(progress: float) -> float:
    """Share of its way that the logarithm of the size has gone, with lambda constant.

    Fast at first, slower as the learning rate falls: the share of steps times learning rate, under
    half a cosine, to the power of 3/4, as measured on LeNet-5 and ResNet-32.

    Args:
        progress: Share of training that is done, 0 to 1.

    Example:
        >>> [round(course(progress), 2) for progress in (0.0, 0.1, 0.5, 1.0)]
        [0.0, 0.3, 0.86, 1.0]
    """
    turn = math.pi * min(1.0, max(0.0, progress))
    return ((turn + math.sin(turn)) / math.pi) ** 0.75


def size_of(write: Callable[[Path], Summary]) -> Summary:
    """The summary of a file that is written, measured and thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / "model.hemp")


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
    thresholds = codebook.thresholds.double().cpu().numpy()
    gaps = np.diff(levels)
    # the costs that the thresholds of now stand for
    steps = 2 * gaps * (thresholds - (levels[1:] + levels[:-1]) / 2)
    costs = np.concatenate([[0.0], np.cumsum(steps)])
    counts = torch.bincount(codebook.assign(weights).reshape(-1), minlength=len(levels))
    # an unused level costs as much as one that a single weight uses
    bits = -np.log2(counts.clamp_min(1).double().cpu().numpy())
    moved = cheapest_cells(levels, costs + price * gaps.mean() ** 2 * bits)
    return Codebook(codebook.levels, torch.from_numpy(moved.astype(np.float32)))
