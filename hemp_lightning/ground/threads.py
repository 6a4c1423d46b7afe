"""Jobs of the compiled loops, shared among threads.

After each of torch's own parallel loops the threads of its OpenMP spin for some milliseconds,
waiting for the next one. Threads of ours would share the cores with them and get half of their
time: the step of a small network gains next to nothing from a second one. So the jobs run on the
very threads that torch has, where that is GNU OpenMP, as in its wheels for Linux.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

PART = 1 << 15
"""Fewest tuples worth a partial table of their own, or a thread."""

_PROCESS = os.getpid()


def run_jobs(function: Callable[[Any], None], groups: list[list[Any]]) -> None:
    """Call `function` on every job, the groups shared among torch's number of threads.

    Args:
        function: Takes a job, a tuple whose second and third entries are its first and last tuple
            of weights; lets go of the interpreter's lock while it works.
        groups: Jobs that run one after the other on the same thread, in each group.
    """

    def run(share: list[list[Any]]) -> None:
        for group in share:
            for job in group:
                function(job)

    threads = min(torch.get_num_threads(), len(groups))
    tuples = sum(end - begin for group in groups for _, begin, end, _ in group)
    if threads <= 1 or tuples < 2 * PART:
        run(groups)
        return
    # Large first, each to the thread with the least so far.
    shares: list[list[list[Any]]] = [[] for _ in range(threads)]
    loads = [0] * threads
    for group in sorted(groups, key=lambda group: -sum(job[2] - job[1] for job in group)):
        lightest = loads.index(min(loads))
        shares[lightest].append(group)
        loads[lightest] += sum(job[2] - job[1] for job in group)
    openmp = _openmp()
    if openmp is None or os.getpid() != _PROCESS:  # its threads do not survive a fork
        started = [_pool(os.getpid(), threads).submit(run, share) for share in shares]
        wait(started)  # for all of them, whatever one may raise
        for each in started:
            each.result()
    else:
        _run_on(openmp, run, shares)


def _run_on(openmp: ctypes.CDLL, run: Callable[[Any], None], shares: list[Any]) -> None:
    errors: list[BaseException] = []

    def work(_: object) -> None:
        try:  # a team may be smaller than was asked for
            for share in shares[openmp.omp_get_thread_num() :: openmp.omp_get_num_threads()]:
                run(share)
        except BaseException as error:  # could not pass through C
            errors.append(error)

    openmp.GOMP_parallel(_Region(work), None, len(shares), 0)
    if errors:
        raise errors[0]


_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@lru_cache(maxsize=1)
def _openmp() -> ctypes.CDLL | None:
    """The GNU OpenMP that torch brought along and works with; None where there is none."""
    folder = Path(torch.__file__).parent
    bundled = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    try:
        library = ctypes.CDLL(str(bundled[0]))
        library.GOMP_parallel.argtypes = (_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        library.GOMP_parallel.restype = None
    except (IndexError, OSError, AttributeError):
        return None
    return library


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # keyed by the process: threads do not survive a fork
    return ThreadPoolExecutor(threads, thread_name_prefix="hemp-entropy")
