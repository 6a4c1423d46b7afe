"""What the kernels of `cuda` and `cuda_shared` share: functions of a few tensors, no loops."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row(blocks, segments):  # type: ignore[no-untyped-def]
    """The row of `_Plan.segments` that a program works on."""
    found = segments + 7 * tl.load(blocks + 2 * tl.program_id(0))
    return (
        tl.load(found),
        tl.load(found + 1),
        tl.load(found + 2),
        tl.load(found + 3),
        tl.load(found + 4),
        tl.load(found + 5),
        tl.load(found + 6),
    )


@triton.jit
def locate(weight, levels, num_levels, steps):  # type: ignore[no-untyped-def]
    """Cell of each weight and its place in it: below 0 or at least 1 outside the levels."""
    low = (weight == 0).to(tl.int64) * 0  # the last level at or below the weight, but one
    high = low + tl.maximum(num_levels - 2, 0)
    for _ in range(steps):
        middle = (low + high + 1) // 2
        up = weight >= tl.load(levels + middle)
        low = tl.where(up, middle, low)
        high = tl.where(up, high, middle - 1)
    level = tl.load(levels + low)
    gap = tl.load(levels + tl.minimum(low + 1, num_levels - 1)) - level
    return low, tl.where(gap > 0, (weight - level) / tl.where(gap > 0, gap, 1.0), 0.0)
