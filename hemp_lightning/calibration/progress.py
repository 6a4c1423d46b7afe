"""What the user sees while a network is compressed."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """A bar with the stage, the bytes of the best file so far and its disagreement.

    Args:
        shown: Whether there is a bar; None for where stderr is a terminal.
        time_limit: Seconds from now that all stages may take; None for no limit.

    Attributes:
        steps: Steps of this stage so far.

    Example:
        >>> progress = Progress(False, 60.0)
        >>> progress.stage("round", 3)
        >>> progress.step()
        >>> 0 < progress.seconds_left <= 60
        True
    """

    def __init__(self, shown: bool | None, time_limit: float | None) -> None:
        self._begin = time.perf_counter()
        self.steps = 0
        self._limit = float("inf") if time_limit is None else time_limit
        shown = sys.stderr.isatty() if shown is None else shown
        self._bar = tqdm(disable=not shown, leave=False, dynamic_ncols=True, bar_format=_FORMAT)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._begin

    @property
    def seconds_left(self) -> float:
        """Seconds until the limit; below 0 after it."""
        return self._limit - self.seconds

    def stage(self, name: str, steps: int) -> None:
        """Begin a stage of so many steps."""
        self.steps = 0
        self._bar.reset(total=max(1, steps))
        self._bar.set_description(name)

    def step(self) -> None:
        """One step of the stage is done."""
        self.steps += 1
        self._bar.update()

    def best(self, num_bytes: int, drop: str) -> None:
        """Show the best file so far."""
        self._bar.set_postfix_str(f"{num_bytes:,} bytes {drop}".rstrip())

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
