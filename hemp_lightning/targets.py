"""Control of lambda towards a file size or an accuracy, and landing there.

The rules are plain numbers in, plain numbers out; the callback says when.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hemp_lightning.codebook import Codebook
from hemp_lightning.summary import Summary

AIM = 0.985
"""Training aims a little below the wanted bytes: to trim what is over costs accuracy."""

NEAR = 0.995
"""Share of the wanted bytes at which trimming has gone as far as it must."""

ARRIVAL = 0.65
"""Share of training after which the file should have its wanted size."""

MAX_FACTOR = 1e4
MAX_TRIM = 64.0


@dataclass(frozen=True)
class LambdaControl:
    """The factor on lambda, and what is needed to move it on; immutable, a few numbers.

    Args:
        factor: Factor on `lambda_entropy`.
        start: Logarithm of the bytes at the start, None before.
        error: Last logarithmic distance from the path.
        progress: Share of training at that moment.
    """

    factor: float = 1.0
    start: float | None = None
    error: float = 0.0
    progress: float = 0.0

    def by_bytes(self, num_bytes: float, target: float, progress: float) -> LambdaControl:
        """Follow a straight line in log bytes to the target, then stay there.

        A proportional-integral rule: lambda rises where the file is above the line.

        Args:
            num_bytes: Size that the file would have now.
            target: Wanted size.
            progress: Share of training that is done, 0 to 1.

        Example:
            >>> control = LambdaControl().by_bytes(1000, 100, 0.0)
            >>> control.by_bytes(1000, 100, 0.1).factor > 1
            True
        """
        start = math.log(num_bytes) if self.start is None else self.start
        goal = math.log(target * AIM)
        line = start + (goal - start) * min(1.0, progress / ARRIVAL)
        error = math.log(num_bytes) - line
        # what is left of training weighs more, as the learning rate falls
        gain = 10.0 / max(0.4, 1.0 - progress)
        change = (error - self.error) + gain * error * max(0.0, progress - self.progress)
        return replace(self._moved(change), start=start, error=error, progress=progress)

    def by_accuracy(self, accuracy: float, target: float) -> LambdaControl:
        """Raise lambda while the error is below the allowed one, and lower it above.

        Args:
            accuracy: Accuracy of the quantized network, 0 to 1.
            target: Wanted accuracy.

        Example:
            >>> round(LambdaControl().by_accuracy(0.99, 0.98).factor, 3)
            1.414
        """
        ratio = (1.0 - target) / max(1.0 - accuracy, 1e-4)
        return self._moved(min(0.7, max(-0.7, 0.5 * math.log(ratio))))

    def _moved(self, change: float) -> LambdaControl:
        factor = self.factor * math.exp(change)
        return replace(self, factor=min(MAX_FACTOR, max(1.0 / MAX_FACTOR, factor)))


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

    Args:
        weights: Weights by name.
        codebooks: Codebooks by the same names.
        target: Wanted bytes.
        num_bytes: Says how long the file is with some codebooks.

    Returns:
        The codebooks with thresholds moved towards rarer levels by one price for all tensors, the
        least that is enough, to within half a percent; the given ones if they are small enough.

    Raises:
        ValueError: If even the dearest price leaves the file above `target`.
    """
    if num_bytes(codebooks) <= target:
        return dict(codebooks)

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
        price: Squared error that a bit is worth, in squares of the smallest gap of the levels.

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
    levels = codebook.levels.double()
    gaps = levels.diff()
    counts = torch.bincount(codebook.assign(weights).reshape(-1), minlength=len(levels)).double()
    # an unused level costs as much as one that a single weight uses
    bits = torch.log2(counts.sum() / counts.clamp_min(1.0))
    shift = price * gaps.min().square() * bits.diff() / (2 * gaps)
    thresholds = codebook.thresholds.double() + shift
    # two rare levels side by side must not push a border past its neighbour
    thresholds = thresholds.cummax(0).values
    return Codebook(codebook.levels, thresholds.float())
