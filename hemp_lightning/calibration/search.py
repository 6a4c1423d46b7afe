"""One number of quality, found so that a file lands at a size or at a disagreement."""

from __future__ import annotations

import math
from collections.abc import Callable

CLOSE = 0.985
"""Share of the wanted bytes at which the search is content."""

WIDE = 4.0
"""Factor by which the search goes on while it has no bracket."""


def land_on_bytes(
    size: Callable[[float], int],
    target: float,
    start: float,
    lowest: float,
    highest: float,
    close: float = CLOSE,
    tries: int = 14,
) -> float:
    """The number at which `size` is at most `target`, and at least `close` of it if that exists.

    Args:
        size: Bytes at a number; falls, nearly everywhere, as the number rises.
        target: Wanted bytes.
        start: Where to begin.
        lowest: Where the file is the largest that makes sense.
        highest: Where it is the smallest.
        close: Share of `target` at which to stop.
        tries: The most calls of `size`.

    Returns:
        The number with the most bytes at or below `target` among those tried, or `highest` if none
        is.

    Example:
        >>> round(land_on_bytes(lambda x: int(1000 / x), 100, 1.0, 1e-3, 1e3), 1)
        10.0
    """
    best, best_size = highest, -1
    low: tuple[float, int] | None = None  # too large
    high: tuple[float, int] | None = None  # small enough
    x = start
    for attempt in range(tries):
        found = size(x)
        if found <= target:
            if found > best_size:
                best, best_size = x, found
            high = (x, found)
            if found >= close * target or x <= lowest:
                break
        else:
            low = (x, found)
            if x >= highest:
                break
        if low is None:
            x = max(lowest, x / WIDE)
        elif high is None:
            x = min(highest, x * WIDE)
        else:
            x = _between(low, high, (1 + close) / 2 * target, bisect=attempt % 3 == 2)
    return best


def land_on_drop(
    drop: Callable[[float], float], limit: float, start: float, lowest: float, tries: int = 9
) -> float:
    """About the greatest number at which `drop` is at most `limit`, or `lowest` if there is none.

    Args:
        drop: Disagreement at a number; rises, on the whole, with it.
        limit: Most disagreement.
        start: Where to begin.
        lowest: Where to stop looking.
        tries: The most calls of `drop`.

    Example:
        >>> 0.4 < land_on_drop(lambda x: x * x, 0.25, 0.1, 1e-6) <= 0.5
        True
    """
    good: float | None = None
    bad: float | None = None
    x = start
    for _ in range(tries):
        if drop(x) <= limit:
            good = x if good is None else max(good, x)
        else:
            bad = x if bad is None else min(bad, x)
        if good is not None and bad is not None:
            if good >= bad or bad / good < 1.1:
                break
            x = math.sqrt(good * bad)
        elif bad is None:
            x *= WIDE
        else:
            if x <= lowest:
                break
            x = max(lowest, x / WIDE)
    return lowest if good is None else good


def _between(low: tuple[float, int], high: tuple[float, int], target: float, bisect: bool) -> float:
    """A number between two, by a straight line through the logarithms."""
    a, b = math.log(low[0]), math.log(high[0])
    place = 0.5
    if not bisect and low[1] != high[1]:
        top, bottom = math.log(low[1]), math.log(high[1])
        place = (top - math.log(target)) / (top - bottom)
    return math.exp(a + min(0.95, max(0.05, place)) * (b - a))
