"""Memory of this process, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident(mark: str) -> int:
    """Bytes in memory: `VmRSS` now, `VmHWM` at most since `peak_above` began."""
    status = Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith(mark))
    return int(line.split()[1]) * 1024


def peak_above(work: Callable[[], Any]) -> int | None:
    """Bytes that the process took at most while it worked, above what it held before.

    None where the system is not Linux.
    """
    refs = Path("/proc/self/clear_refs")
    if not refs.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what was freed, so that it counts when taken again
    refs.write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    kept = work()
    peak = resident("VmHWM") - before
    del kept
    return peak
