"""The compiled loops of the fast coder: the context coder's decisions, one counter for each.

About six times as fast as mixing. The contexts are the magnitudes nearby and, for the sign, the
signs nearby. There is one loop for each mode, so that none asks at every decision what to do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hemp_reader.coding.context.model_tables import FRESH
from hemp_reader.coding.context.range_coder import (
    DECODE,
    ENCODE,
    HALF,
    MARGIN,
    MEASURE,
    code_step,
    load_coder,
    store_coder,
)
from hemp_reader.coding.context.sizes import FAST_DIGITS, FAST_LIMIT, NEAR
from hemp_reader.numba_tools import inlined, jit

RATE = np.array([131072 // (2 * n + 3) for n in range(FAST_LIMIT + 1)], np.int64)
SIGNS = np.uint64(125)  # counters of the sign, by three signs nearby


@inlined
def _class_of(value: int, scale: int) -> int:
    """`model_tables.class_of` without a branch."""
    size = abs(value)
    side = np.int64(2 * size >= scale) + np.int64(size >= 2 * scale)
    return 2 + (side if value > 0 else -side)


@inlined
def _decide(  # type: ignore[no-untyped-def]
    mode, table, slot, bit, low, width, position, buffer, cost, log2, t
):
    """Code a decision by the counter at `slot`, which learns it."""
    counter = table[slot]
    one = min(max(np.int64(counter >> np.uint32(16)), 1), 65535)
    bit, low, width, position = code_step(mode, one, bit, low, width, position, buffer)
    if mode == MEASURE:
        cost[np.uint64(t)] += log2[np.uint64(one if bit else 65536 - one)]
    count = np.int64(counter & np.uint32(1023))
    p = np.int64(counter >> np.uint32(10))
    p += ((bit * 4194303 - p) * RATE[np.uint64(count)]) >> 16
    table[slot] = np.uint32((p << 10) | (count + np.int64(count < FAST_LIMIT)))
    return bit, low, width, position


def _make_loop(mode: int) -> Callable[..., bool]:
    """The loop of one mode."""

    @jit
    def loop(
        state: np.ndarray,
        buffer: np.ndarray,
        values: np.ndarray,
        cost: np.ndarray,
        log2: np.ndarray,
        dims: np.ndarray,
        model: np.ndarray,
    ) -> bool:
        low, width, position = load_coder(mode, state)
        inner, last = dims[2], dims[3]
        row = dims[1] * inner
        below, above, half, binary, shift = model[0], model[1], model[2], model[3], model[5]
        scale = 1 << shift
        digits = 0
        while (1 << digits) < max(below, above):
            digits += 1
        modelled = min(digits, FAST_DIGITS)
        nodes = 2 + 2 * ((1 << modelled) if binary else max(below, above))
        # Counters of the sign, then of each node, by class.
        table = np.full(125 + 16 * nodes, FRESH, np.uint32)
        pad = len(values) - dims[0] * row
        left, left2 = np.int64(0), np.int64(0)
        k = 0
        for t in range(len(values) - pad):
            if mode == ENCODE and position + MARGIN > len(buffer):
                return False
            # Unsigned positions spare the test whether they count from the end.
            u = np.uint64(t + pad)
            over = values[u - np.uint64(last if inner > 1 and k >= last else row)] - below
            near = (2 * abs(left) + abs(left2) + 2 * abs(over)) >> shift
            base = SIGNS + NEAR[np.uint64(min(near, 63))] * np.uint64(nodes)
            value = values[u] - below
            magnitude = abs(value)
            bit = np.int64(1)
            if half == 0:
                bit, low, width, position = _decide(
                    mode, table, base, np.int64(value != 0),
                    low, width, position, buffer, cost, log2, t,
                )  # fmt: skip
            if bit == 0:
                value = np.int64(0)
            else:
                negative = np.int64(above == 0)
                if below > 0 and above > 0:
                    before = values[u - np.uint64(inner)] - below if inner > 1 else left2
                    kinds = (_class_of(left, scale) * 5 + _class_of(over, scale)) * 5 + _class_of(
                        before, scale
                    )
                    negative, low, width, position = _decide(
                        mode, table, np.uint64(kinds), np.int64(value < 0),
                        low, width, position, buffer, cost, log2, t,
                    )  # fmt: skip
                limit = below if negative else above
                base += np.uint64(negative)
                size = np.int64(1)
                if binary:
                    for lower in range(digits - 1, -1, -1):
                        digit = ((magnitude - 1) >> lower) & 1
                        if ((2 * size + 1) << lower) - (1 << digits) >= limit:
                            digit = np.int64(0)  # what can only be 0 is not coded
                        elif digits - lower - 1 < modelled:
                            digit, low, width, position = _decide(
                                mode, table, base + np.uint64(2 * size), digit,
                                low, width, position, buffer, cost, log2, t,
                            )  # fmt: skip
                        else:
                            digit, low, width, position = code_step(
                                mode, HALF, digit, low, width, position, buffer
                            )
                            if mode == MEASURE:
                                cost[t] += 1.0
                        size = 2 * size + digit
                    size -= (1 << digits) - 1
                else:
                    while size < limit:
                        bit, low, width, position = _decide(
                            mode, table, base + np.uint64(2 * size), np.int64(magnitude > size),
                            low, width, position, buffer, cost, log2, t,
                        )  # fmt: skip
                        if bit == 0:
                            break
                        size += 1
                value = -size if negative else size
            if mode == DECODE:
                values[u] = below + value
            left2 = left
            left = value
            k += 1
            if k == inner:
                k = 0
        store_coder(mode, state, low, width, position)
        return True

    return loop


_LOOPS = {mode: _make_loop(mode) for mode in (DECODE, ENCODE, MEASURE)}


def code_fast(mode: int, *arguments: np.ndarray) -> bool:
    """Code all indices, as differences from the centre; see `mixing_loop.code_indices`."""
    return _LOOPS[mode](*arguments)
