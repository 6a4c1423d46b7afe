"""The compiled loop of the context coder.

An index becomes a few binary decisions. Each is predicted by `NUM_INPUTS` counters, one for each
context; their probabilities go through `stretch`, ln(p / (1 - p)), a mixer adds them with learned
weights, `squash` turns the sum back into a probability, and one more table corrects it (the
logistic mixing of PAQ and lpaq, M. Mahoney 2005 to 2007). Encoding, decoding and measuring are the
same code: `mode` says where the bits come from.

Only integers decide: 64-bit, in tables 32- and 16-bit; `>>` rounds towards minus infinity.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from hemp_lightning.coding.context.model_tables import (
    FRESH,
    PACE,
    SQUASH,
    STRETCH,
    STRETCH_MAX,
    WEIGHT_START,
    class_of,
    inherit,
    learn,
    log_class,
)
from hemp_lightning.coding.context.range_coder import (
    DECODE,
    ENCODE,
    HALF,
    LENGTHS,
    MARGIN,
    MEASURE,
    code_step,
    load_coder,
    store_coder,
)

NUM_INPUTS = 8
MIXED_DIGITS = 5  # of a binary magnitude; the digits below are predicted by order 0 alone
LOW_NODES = 1024  # prefixes of the magnitude that have a counter for their next low digit
LINE_NODES = 8  # nodes that have a counter for each row and each column
MIN_LINE = 8  # rows and columns shorter than this have none of their own
APM_STEPS = 33
MAX_KERNEL = 64
TUPLE_CYCLE = 12  # the least common multiple of tuple lengths 1, 2, 3, 4 and 6


@njit(cache=True, nogil=True, error_model="numpy")
def _cost_of_one(  # type: ignore[no-untyped-def]
    table, base, weights, apm, log2, node, inherits, costs
):
    """Put what a 0 and a 1 at a node would cost, in bits, in `costs`; nothing is learned."""
    counter = table[base[0] + node]
    if counter == 0:
        counter = FRESH
        if inherits and table[base[0] + node - 2] != 0:
            counter = (table[base[0] + node - 2] & np.uint32(0xFFFFFC00)) | np.uint32(1)
    parent = np.int64(counter >> np.uint32(10))
    dot = np.int64(STRETCH[counter >> np.uint32(16)]) * weights[node, 0]
    for i in range(1, NUM_INPUTS):
        counter = table[base[i] + (node if i < 6 else min(node, LINE_NODES - 1))]
        if counter == 0:
            counter = inherit(parent)
        dot += np.int64(STRETCH[counter >> np.uint32(16)]) * weights[node, i]
    mix = min(max(dot >> 16, -STRETCH_MAX), STRETCH_MAX)
    place = min(max(mix, -2047), 2047) + 2048
    step, part = place >> 7, place & 127
    corrected = (apm[node, step] * (128 - part) + apm[node, step + 1] * part) >> 13
    one = min(max((3 * np.int64(SQUASH[mix + STRETCH_MAX]) + corrected) >> 2, 1), 65535)
    costs[0], costs[1] = log2[65536 - one], log2[one]


def _make_loop(mode: int) -> Callable[..., bool]:
    """The loop of one mode, so that none asks at every decision what to do."""

    @njit(cache=True, nogil=True, error_model="numpy")
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
        rows, mid, inner, last = dims[0], dims[1], dims[2], dims[3]
        below, above, half, binary, flags = model[0], model[1], model[2], model[3], model[4]
        scale = 1 << model[5]
        row = mid * inner
        digits = 0
        while (1 << digits) < max(below, above):
            digits += 1
        mixed = min(digits, MIXED_DIGITS)
        nodes = 2 + 2 * ((1 << mixed) if binary else max(below, above))
        has_rows = row >= MIN_LINE
        has_columns = rows >= MIN_LINE

        # Where the counters of each input begin.
        start = np.zeros(NUM_INPUTS + 1, np.int64)
        for i in range(NUM_INPUTS):
            if i == 0:
                size = nodes
            elif i == 1:
                size = 48 * nodes
            elif i == 2:
                size = 4 * MAX_KERNEL * nodes
            elif i == 3 or i == 4:
                size = 125 * nodes
            elif i == 5:
                size = TUPLE_CYCLE * 15 * nodes
            elif i == 6:
                size = LINE_NODES * (row if has_columns else 1)
            else:
                size = LINE_NODES * (rows if has_rows else 1)
            start[i + 1] = start[i] + size
        table = np.zeros(start[NUM_INPUTS], np.uint32)
        weights = np.zeros((nodes, NUM_INPUTS), np.int64)
        for i in range(nodes):
            weights[i] = WEIGHT_START[min(i, 2)]
        uses = np.zeros(nodes, np.int64)
        apm = np.zeros((nodes, APM_STEPS), np.int64)  # probabilities of 22 bits
        for i in range(nodes):
            for j in range(APM_STEPS):
                apm[i, j] = np.int64(SQUASH[(j - 16) * 128 + STRETCH_MAX]) << 6
        low_table = np.full(LOW_NODES, FRESH, np.uint32)
        silence = np.full(2, FRESH, np.uint32)
        base = np.zeros(NUM_INPUTS, np.int64)
        slots = np.zeros(NUM_INPUTS, np.uint64)
        inputs = np.zeros(NUM_INPUTS, np.int64)
        found = np.zeros(NUM_INPUTS, np.uint32)
        num_levels = below + above + (1 - half)
        costs = np.zeros(2)
        pad = len(values) - rows * row

        t = 0
        silent = 0
        for a in range(rows):
            if flags:
                one = max(np.int64(silence[silent] >> np.uint32(16)), 1)
                bit = 1
                if mode != DECODE:
                    for c in range(row):
                        if values[t + pad + c] != below:
                            bit = 0
                            break
                bit, low, width, position = code_step(mode, one, bit, low, width, position, buffer)
                if mode == MEASURE:
                    spread = log2[one if bit else 65536 - one] / row
                    for c in range(row):
                        cost[t + c] += spread
                silence[silent] = learn(silence[silent], bit)
                silent = bit
                if silent:
                    t += row
                    continue
            for c in range(row):
                if mode == ENCODE and position + MARGIN > len(buffer):
                    return False
                k = c % inner
                u = t + pad
                left, left2 = values[u - 1] - below, values[u - 2] - below
                up = values[u - row] - below
                if inner > 1:
                    over = values[u - last] - below if k >= last else np.int64(0)
                    over_next = np.int64(0)  # also where it is the one to code
                    if k >= last and last > 1:
                        over_next = values[u - last + 1] - below
                    before = values[u - inner] - below
                    near = 2 * abs(left) + abs(left2) + 2 * abs(over)
                    base[3] = (class_of(left, scale) * 5 + class_of(over, scale)) * 5 + class_of(
                        before, scale
                    )
                    base[4] = (class_of(up, scale) * 5 + class_of(before, scale)) * 5 + class_of(
                        over_next, scale
                    )
                else:
                    near = 2 * abs(left) + abs(left2) + abs(values[u - 3] - below)
                    base[3] = (class_of(left, scale) * 5 + class_of(up, scale)) * 5 + class_of(
                        left2, scale
                    )
                    up2 = values[u - 2 * row] - below
                    up_next = values[u - row + 1] - below if row > 1 else np.int64(0)
                    base[4] = (class_of(up, scale) * 5 + class_of(up2, scale)) * 5 + class_of(
                        up_next, scale
                    )
                base[0] = 0
                base[1] = log_class(near)
                base[2] = min(k, MAX_KERNEL - 1) * 4 + min(abs(left) >> model[5], 3)
                base[5] = ((t % TUPLE_CYCLE) * 5 + class_of(left, scale)) * 3 + min(
                    abs(left2) >> model[5], 2
                )
                base[6] = c if has_columns else 0
                base[7] = a if has_rows else 0
                for i in range(6):
                    base[i] = start[i] + base[i] * nodes
                base[6] = start[6] + base[6] * LINE_NODES
                base[7] = start[7] + base[7] * LINE_NODES

                value = values[u] - below
                magnitude = abs(value)
                negative = 1 if above == 0 else 0
                phase = 0  # 0: is it the centre? 1: is it below? 2: magnitude
                if half:
                    phase = 2 if below == 0 or above == 0 else 1
                if mode == LENGTHS:  # of each level, in unary; the loop below learns the true one
                    lengths = cost[t * num_levels : (t + 1) * num_levels]
                    spent = 0.0
                    if not half:
                        _cost_of_one(table, base, weights, apm, log2, 0, False, costs)
                        lengths[below] = costs[0]
                        spent = costs[1]
                    for side in range(2):
                        limit = below if side else above
                        if limit == 0:
                            continue
                        so_far = spent
                        if below > 0 and above > 0:
                            _cost_of_one(table, base, weights, apm, log2, 1, False, costs)
                            so_far += costs[side]
                        for size in range(1, limit + 1):
                            column = below - size if side else below - half + size
                            lengths[column] = so_far
                            if size < limit:
                                node = 2 * size + side
                                _cost_of_one(table, base, weights, apm, log2, node, size > 1, costs)
                                lengths[column] += costs[0]
                                so_far += costs[1]
                size = 1  # unary: magnitude is at least this; binary: the digits so far behind a 1
                left_digits = digits
                while True:
                    node = phase
                    if phase == 0:
                        bit = 1 if value != 0 else 0
                    elif phase == 1:
                        bit = 1 if value < 0 else 0
                    else:
                        limit = below if negative else above
                        if binary:
                            # A digit that can only be 0 is not coded.
                            while (
                                left_digits > 0
                                and (((2 * size + 1) << (left_digits - 1)) - (1 << digits)) >= limit
                            ):
                                size *= 2
                                left_digits -= 1
                            if left_digits == 0:
                                magnitude = size - (1 << digits) + 1
                                break
                            bit = ((magnitude - 1) >> (left_digits - 1)) & 1
                            if digits - left_digits >= mixed:
                                one = np.int64(HALF)
                                if size < LOW_NODES:
                                    one = np.int64(low_table[size] >> np.uint32(16))
                                    one = min(max(one, 1), 65535)
                                bit, low, width, position = code_step(
                                    mode, one, bit, low, width, position, buffer
                                )
                                if size < LOW_NODES:
                                    low_table[size] = learn(low_table[size], bit)
                                if mode == MEASURE:
                                    cost[t] += log2[one if bit else 65536 - one]
                                size = 2 * size + bit
                                left_digits -= 1
                                continue
                        else:
                            if size >= limit:
                                magnitude = size
                                break
                            bit = 1 if magnitude > size else 0
                        node = 2 * size + negative

                    # Predict.
                    slot = base[0] + node
                    counter = table[slot]
                    if counter == 0:
                        counter = FRESH
                        if phase == 2 and not binary and size > 1:
                            counter = (table[slot - 2] & np.uint32(0xFFFFFC00)) | np.uint32(1)
                        table[slot] = counter
                    parent = np.int64(counter >> np.uint32(10))
                    dot = np.int64(0)
                    for i in range(NUM_INPUTS):
                        slot = np.uint64(base[i] + (node if i < 6 else min(node, LINE_NODES - 1)))
                        counter = table[slot]
                        if counter == 0:
                            counter = inherit(parent)
                            table[slot] = counter
                        slots[i] = slot
                        found[i] = counter
                        inputs[i] = STRETCH[counter >> np.uint32(16)]
                        dot += inputs[i] * weights[node, i]
                    mix = min(max(dot >> 16, -STRETCH_MAX), STRETCH_MAX)
                    mixed_one = np.int64(SQUASH[mix + STRETCH_MAX])
                    place = min(max(mix, -2047), 2047) + 2048
                    step, part = place >> 7, place & 127
                    corrected = (apm[node, step] * (128 - part) + apm[node, step + 1] * part) >> 13
                    one = min(max((3 * mixed_one + corrected) >> 2, 1), 65535)

                    bit, low, width, position = code_step(
                        mode, one, bit, low, width, position, buffer
                    )
                    if mode == MEASURE:
                        cost[t] += log2[one if bit else 65536 - one]

                    # Learn.
                    if part >= 64:
                        step += 1
                    apm[node, step] += ((bit << 22) - apm[node, step]) >> 6
                    error = ((bit << 16) - mixed_one) * PACE[uses[node]]
                    uses[node] = min(uses[node] + 1, len(PACE) - 1)
                    for i in range(NUM_INPUTS):
                        weights[node, i] += (inputs[i] * error + 131072) >> 18
                        table[slots[i]] = learn(found[i], bit)

                    # The next decision.
                    if phase == 0:
                        if bit == 0:
                            magnitude = 0
                            break
                        phase = 2 if below == 0 or above == 0 else 1
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
                    values[u] = below + (-magnitude if negative else magnitude)
                t += 1
        store_coder(mode, state, low, width, position)
        return True

    return loop


_LOOPS = {mode: _make_loop(mode) for mode in (DECODE, ENCODE, MEASURE, LENGTHS)}


def code_indices(
    mode: int,
    state: np.ndarray,
    buffer: np.ndarray,
    values: np.ndarray,
    cost: np.ndarray,
    log2: np.ndarray,
    dims: np.ndarray,
    model: np.ndarray,
) -> bool:
    """Code all indices, as differences from the centre.

    Args:
        mode: DECODE, ENCODE, MEASURE, or LENGTHS (unary magnitudes, no flags).
        state: Range coder, `(4,)` int64: low, range, position, code.
        buffer: Bytes to read or to fill, uint8.
        values: Differences, each with the largest one below the centre added so that none is
            negative, in the narrowest unsigned dtype: those of the `A * B * K` indices in scan
            order, behind a border of at least `2 * B * K + 8` that are no difference, and the
            length of the last axis more. When decoding the rest is such too, and is written.
        cost: Bits of each weight, float64, when measuring; with LENGTHS of each level of each
            weight, `(A * B * K * L,)`; else empty.
        log2: `-log2(i / 65536)`, `(65537,)`, when measuring; else empty.
        dims: A, B, K, and the length of the last axis.
        model: largest difference below and above the centre, whether 0 is no difference ("half"),
            whether magnitudes are binary, whether silent rows have a flag, log2 of the scale.

    Returns:
        False if the buffer is too small.
    """
    return _LOOPS[mode](state, buffer, values, cost, log2, dims, model)
