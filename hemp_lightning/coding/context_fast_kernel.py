"""The compiled loop of the fast coder: the context coder's decisions, one counter for each.

About eight times as fast as mixing. The contexts are the magnitudes nearby and, for the sign, the
signs nearby. The range coder is the one of `context_range`, written into the loop.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hemp_lightning.coding.context_range import BOTTOM, DECODE, ENCODE, HALF, MARGIN, MEASURE, TOP
from hemp_lightning.coding.context_tables import FRESH, RATE, class_of

FAST_DIGITS = 8  # of a binary magnitude; the digits below are equally likely
FAST_LIMIT = 254  # a counter's rate never falls below 1 / (FAST_LIMIT + 1.5)
# Class of near magnitudes: each up to 3, then two, from 12 on four share one.
NEAR = np.array(
    [x if x < 4 else 4 + (x - 4) // 2 if x < 12 else min(8 + (x - 12) // 4, 15) for x in range(64)],
    np.int64,
)


@njit(cache=True, nogil=True, error_model="numpy")
def code_fast(
    mode: int,
    state: np.ndarray,
    buffer: np.ndarray,
    values: np.ndarray,
    cost: np.ndarray,
    log2: np.ndarray,
    dims: np.ndarray,
    model: np.ndarray,
) -> bool:
    """Code the differences of all indices from the centre; see `context_kernel.code_indices`."""
    low, width, position, code = state[0], state[1], state[2], state[3]
    inner, last = dims[2], dims[3]
    row = dims[1] * inner
    below, above, half, binary, shift = model[0], model[1], model[2], model[3], model[5]
    scale = 1 << shift
    digits = 0
    while (1 << digits) < max(below, above):
        digits += 1
    modelled = min(digits, FAST_DIGITS)
    nodes = 2 + 2 * ((1 << modelled) if binary else max(below, above))
    # Counters of the sign, by three signs nearby, then of each node, by class.
    table = np.full(125 + 16 * nodes, FRESH, np.uint32)
    pad = row + last + 8
    past = np.zeros(len(values) + pad, np.int32)
    k = 0
    for t in range(len(values)):
        if mode == ENCODE and position + MARGIN > len(buffer):
            return False
        u = t + pad
        left, left2 = np.int64(past[u - 1]), np.int64(past[u - 2])
        over = np.int64(past[u - last] if inner > 1 and k >= last else past[u - row])
        near = (2 * abs(left) + abs(left2) + 2 * abs(over)) >> shift
        base = 125 + NEAR[min(near, 63)] * nodes
        value = np.int64(values[t])
        magnitude = abs(value)
        negative = 1 if above == 0 else 0
        phase = 1 if half else 0  # 0: is it the centre? 1: is it below? 2: magnitude
        size = 1
        left_digits = digits
        while True:
            slot = -1
            if phase == 0:
                slot = base
                bit = 1 if value != 0 else 0
            elif phase == 1:
                before = np.int64(past[u - inner]) if inner > 1 else left2
                slot = (class_of(left, scale) * 5 + class_of(over, scale)) * 5 + class_of(
                    before, scale
                )
                bit = 1 if value < 0 else 0
            else:
                limit = below if negative else above
                if binary:
                    if left_digits == 0:
                        magnitude = size - (1 << digits) + 1
                        break
                    # A digit that can only be 0 is not coded.
                    if ((2 * size + 1) << (left_digits - 1)) - (1 << digits) >= limit:
                        size *= 2
                        left_digits -= 1
                        continue
                    bit = ((magnitude - 1) >> (left_digits - 1)) & 1
                    if digits - left_digits < modelled:
                        slot = base + 2 * size + negative
                else:
                    if size >= limit:
                        magnitude = size
                        break
                    bit = 1 if magnitude > size else 0
                    slot = base + 2 * size + negative

            counter = np.uint32(0)
            one = np.int64(HALF)
            if slot >= 0:
                counter = table[np.uint64(slot)]
                one = min(max(np.int64(counter >> np.uint32(16)), 1), 65535)
            zero = (width >> 16) * (65536 - one)
            if mode == DECODE:
                if code >= zero:
                    bit = 1
                    code -= zero
                    width -= zero
                else:
                    bit = 0
                    width = zero
                while width < BOTTOM:
                    byte = np.int64(0)
                    if position < len(buffer):
                        byte = np.int64(buffer[np.uint64(position)])
                    position += 1
                    code = (code << 8) | byte
                    width <<= 8
            elif mode == MEASURE:
                cost[t] += log2[one if bit else 65536 - one]
            else:
                if bit:
                    low += zero
                    width -= zero
                else:
                    width = zero
                if low >= TOP:  # carry
                    low -= TOP
                    i = position - 1
                    while buffer[i] == 255:
                        buffer[i] = 0
                        i -= 1
                    buffer[i] += 1
                while width < BOTTOM:
                    buffer[position] = low >> 40
                    position += 1
                    low = (low & (BOTTOM - 1)) << 8
                    width <<= 8
            if slot >= 0:
                count = np.int64(counter & np.uint32(1023))
                p = np.int64(counter >> np.uint32(10))
                p += ((bit * 4194303 - p) * RATE[np.uint64(count)]) >> 16
                if count < FAST_LIMIT:
                    count += 1
                table[np.uint64(slot)] = np.uint32((p << 10) | count)

            if phase == 0:
                if bit == 0:
                    magnitude = 0
                    break
                phase = 1 if below > 0 and above > 0 else 2
            elif phase == 1:
                negative = bit
                phase = 2
            elif binary:
                size = 2 * size + bit
                left_digits -= 1
            else:
                if bit == 0:
                    magnitude = size
                    break
                size += 1
        if mode == DECODE:
            values[t] = -magnitude if negative else magnitude
        past[u] = values[t]
        k += 1
        if k == inner:
            k = 0
    state[0], state[1], state[2], state[3] = low, width, position, code
    return True
