"""Work on many tensors, a few at a time: what is in memory is what the threads work on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

MAX_THREADS = 8
"""The most threads unless told otherwise: each one holds a tensor of its own."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_threads(threads: int | None) -> int:
    """`threads`, checked; for None the processors at hand, up to `MAX_THREADS`.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is below 1.

    Example:
        >>> count_threads(3), 1 <= count_threads(None) <= MAX_THREADS
        (3, True)
    """
    if threads is None:
        at_hand = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
        return min(len(at_hand), MAX_THREADS)
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"`threads` must be an integer; found {threads!r}")
    if threads < 1:
        raise ValueError(f"`threads` must be at least 1; found {threads}")
    return threads


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """Results of `work`, in the order of `items`; at most `threads` of them are under way.

    The first error in that order is raised, and what has not begun then is dropped. Items are
    drawn by the calling thread, when their turn comes.

    Example:
        >>> list(in_order(lambda number: number * number, range(5), threads=2))
        [0, 1, 4, 9, 16]
    """
    if threads == 1:
        yield from map(work, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # which one thread does not wait for

    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Result]] = deque()
        try:
            for item in items:
                under_way.append(pool.submit(work, item))
                del item  # or it would outlive its work
                if len(under_way) == threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
