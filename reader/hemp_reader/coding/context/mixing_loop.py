"""The compiled loop of the context coder.

An index becomes a few binary decisions: is it the centre, is it below, and what is its magnitude,
in unary or digit by digit. `neighbours` finds the contexts of the index, `mixer` predicts each of
its decisions from them and learns it. Encoding, decoding and measuring are the same code: `mode`
says where the bits come from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hemp_reader.coding.context.mixer import (
    foresee,
    learn_decision,
    predict,
    start_mixer,
)
from hemp_reader.coding.context.model_tables import FRESH, learn
from hemp_reader.coding.context.neighbours import (
    LINE_INPUTS,
    NUM_INPUTS,
    Geometry,
    find_contexts,
)
from hemp_reader.coding.context.range_coder import (
    DECODE,
    ENCODE,
    HALF,
    LENGTHS,
    MARGIN,
    MEASURE,
    PRICED,
    code_step,
    load_coder,
    store_coder,
)
from hemp_reader.coding.context.sizes import LINE_NODES, LOW_NODES, MIXED_DIGITS
from hemp_reader.numba_tools import embedded, jit


@embedded
def _decide(  # type: ignore[no-untyped-def]
    mode, mixer, node, inherits, bit, low, width, position, buffer, cost, log2, t
):
    """Code the decision at a node, which learns it; returns what `code_step` does."""
    one, squashed, step, part = predict(mixer, node, inherits)
    bit, low, width, position = code_step(mode, one, bit, low, width, position, buffer)
    if mode == MEASURE:
        cost[t] += log2[one if bit else 65536 - one]
    learn_decision(mixer, node, bit, squashed, step, part)
    return bit, low, width, position


@embedded
def _decide_alone(  # type: ignore[no-untyped-def]
    mode, counters, which, bit, low, width, position, buffer
):
    """Code a decision by a lone counter, which learns it; returns p and what `code_step` does."""
    one = min(max(np.int64(counters[which] >> np.uint32(16)), 1), 65535)
    bit, low, width, position = code_step(mode, one, bit, low, width, position, buffer)
    counters[which] = learn(counters[which], bit)
    return one, bit, low, width, position


@jit
def _foresee_levels(  # type: ignore[no-untyped-def]
    mixer, below, above, half, most_below, most_above, log2, lengths
):
    """Fill `lengths`, `(L,)`, with the bits of each level, in unary; nothing is learned.

    Levels beyond `most_below` and `most_above` from the centre are left out.
    """
    spent = 0.0
    if not half:
        one = foresee(mixer, 0, False)
        lengths[below] = log2[65536 - one]
        spent = log2[one]
    for negative in range(2):
        limit = below if negative else above
        most = most_below if negative else most_above
        if most == 0:
            continue
        so_far = spent
        if below > 0 and above > 0:
            one = foresee(mixer, 1, False)
            so_far += log2[one if negative else 65536 - one]
        for size in range(1, most + 1):
            level = below - size if negative else below - half + size
            lengths[level] = so_far
            if size < limit:
                one = foresee(mixer, 2 * size + negative, size > 1)
                lengths[level] += log2[65536 - one]
                so_far += log2[one]


@jit
def _cheapest(  # type: ignore[no-untyped-def]
    mixer, below, above, half, value, weight, levels, log2, lengths
):
    """The difference with the least error and length: `value`, one beside it, or the centre."""
    size, beyond = abs(value) + 1, np.int64(abs(value) <= 1)
    most_below = min(below, size if value <= 0 else beyond)
    most_above = min(above, size if value >= 0 else beyond)
    _foresee_levels(mixer, below, above, half, most_below, most_above, log2, lengths)
    last = below + value - (half if value > 0 else 0)
    best, least = value, np.inf
    for candidate in (last, last - 1, last + 1, last if half else below):
        if 0 <= candidate < len(levels):
            bits = (weight - levels[candidate]) ** 2 + lengths[candidate]
            if bits < least:
                least = bits
                best = candidate - below + (half if candidate >= below else 0)
    return best


@jit
def _is_silent(values, start, row, below):  # type: ignore[no-untyped-def]
    """1 if a row has no difference, else 0."""
    for u in range(start, start + row):
        if values[u] != below:
            return 0
    return 1


def _make_loop(mode: int) -> Callable[..., bool]:
    """The loop of one mode, so that none asks at every decision what to do."""

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
        below, above, half, binary, flags = model[0], model[1], model[2], model[3], model[4]
        rows, row = dims[0], dims[1] * dims[2]
        frequencies = model[6] if dims[2] > 1 else np.int64(0)
        geometry = Geometry(rows, row, dims[2], dims[3], below, model[5], frequencies)
        digits = 0
        while (1 << digits) < max(below, above):
            digits += 1
        mixed = min(digits, MIXED_DIGITS)
        nodes = 2 + 2 * ((1 << mixed) if binary else max(below, above))
        mixer = start_mixer(nodes, geometry)
        low_digits = np.full(LOW_NODES, FRESH, np.uint32)
        silence = np.full(2, FRESH, np.uint32)
        num_levels = below + above + (1 - half)
        foreseen = np.zeros(num_levels if mode == PRICED else 0)
        pad = len(values) - rows * row
        t = 0
        silent = np.int64(0)
        for a in range(rows):
            if flags:
                bit = _is_silent(values, t + pad, row, below)
                one, silent, low, width, position = _decide_alone(
                    mode, silence, silent, bit, low, width, position, buffer
                )
                if mode == MEASURE:
                    cost[t : t + row] += log2[one if silent else 65536 - one] / row
                if silent:
                    t += row
                    continue
            for c in range(row):
                if mode == ENCODE and position + MARGIN > len(buffer):
                    return False
                u = t + pad
                find_contexts(values, u, t, a, c, geometry, mixer.bases)
                for i in range(NUM_INPUTS):
                    count = LINE_NODES if i >= LINE_INPUTS else nodes
                    mixer.bases[i] = mixer.starts[i] + mixer.bases[i] * count
                if mode == LENGTHS:  # of each level; what follows learns the true one
                    lengths = cost[t * num_levels : (t + 1) * num_levels]
                    _foresee_levels(mixer, below, above, half, below, above, log2, lengths)
                if mode == PRICED:
                    values[u] = below + _cheapest(
                        mixer, below, above, half, values[u] - below,
                        cost[t], cost[rows * row :], log2, foreseen,
                    )  # fmt: skip
                value = values[u] - below
                magnitude = abs(value)
                bit = np.int64(1)
                if half == 0:
                    bit, low, width, position = _decide(
                        mode, mixer, np.int64(0), False, np.int64(value != 0),
                        low, width, position, buffer, cost, log2, t,
                    )  # fmt: skip
                if bit == 0:
                    value = np.int64(0)
                else:
                    negative = np.int64(above == 0)
                    if below > 0 and above > 0:
                        negative, low, width, position = _decide(
                            mode, mixer, np.int64(1), False, np.int64(value < 0),
                            low, width, position, buffer, cost, log2, t,
                        )  # fmt: skip
                    limit = below if negative else above
                    size = np.int64(1)  # unary: it is at least this; binary: digits behind a 1
                    if binary:
                        for lower in range(digits - 1, -1, -1):
                            digit = ((magnitude - 1) >> lower) & 1
                            if ((2 * size + 1) << lower) - (1 << digits) >= limit:
                                digit = np.int64(0)  # what can only be 0 is not coded
                            elif digits - lower - 1 < mixed:
                                digit, low, width, position = _decide(
                                    mode, mixer, 2 * size + negative, False, digit,
                                    low, width, position, buffer, cost, log2, t,
                                )  # fmt: skip
                            else:
                                one = np.int64(HALF)
                                if size < LOW_NODES:
                                    one, digit, low, width, position = _decide_alone(
                                        mode, low_digits, size, digit, low, width, position, buffer
                                    )
                                else:
                                    digit, low, width, position = code_step(
                                        mode, one, digit, low, width, position, buffer
                                    )
                                if mode == MEASURE:
                                    cost[t] += log2[one if digit else 65536 - one]
                            size = 2 * size + digit
                        size -= (1 << digits) - 1
                    else:
                        while size < limit:
                            bit, low, width, position = _decide(
                                mode, mixer, 2 * size + negative, size > 1,
                                np.int64(magnitude > size),
                                low, width, position, buffer, cost, log2, t,
                            )  # fmt: skip
                            if bit == 0:
                                break
                            size += 1
                    value = -size if negative else size
                if mode == DECODE:
                    values[u] = below + value
                t += 1
        store_coder(mode, state, low, width, position)
        return True

    return loop


_LOOPS = {mode: _make_loop(mode) for mode in (DECODE, ENCODE, MEASURE, LENGTHS, PRICED)}


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
        mode: DECODE, ENCODE, MEASURE, or with unary magnitudes and no flags LENGTHS and PRICED:
            that takes for each weight the level of least error and length near the one it has.
        state: Range coder, `(4,)` int64: low, range, position, code.
        buffer: Bytes to read or to fill, uint8.
        values: Differences, each with the largest one below the centre added so that none is
            negative, in the narrowest unsigned dtype: those of the `A * B * K` indices in scan
            order, behind a border of at least `2 * B * K + 8` that are no difference, and the
            length of the last axis more. When decoding the rest is such too, and is written; so is
            it with PRICED.
        cost: Bits of each weight, float64, when measuring; with LENGTHS of each level of each
            weight, `(A * B * K * L,)`; with PRICED the weights, and behind them the levels, in a
            unit whose square is a bit; else empty.
        log2: `-log2(i / 65536)`, `(65537,)`, when measuring; else empty.
        dims: A, B, K, and the length of the last axis.
        model: largest difference below and above the centre, whether 0 is no difference ("half"),
            whether magnitudes are binary, whether silent rows have a flag, log2 of the scale,
            whether places of a kernel are frequencies.

    Returns:
        False if the buffer is too small.
    """
    return _LOOPS[mode](state, buffer, values, cost, log2, dims, model)
