"""Control of lambda towards a file size or an accuracy, and landing there.

The rules are plain numbers in, plain numbers out; the callback says when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

AIM = 0.985
"""Training aims a little below the wanted bytes: to trim what is over costs accuracy."""

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
