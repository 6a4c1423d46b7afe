"""The adaptive parts of the context coder: counters, classes of neighbours, and their tables.

Everything is integer arithmetic, so every machine makes the same bytes; FORMAT.md says it in words.
"""

from __future__ import annotations

import numpy as np

from hemp_reader.numba_tools import jit

STRETCH_MAX = 3071  # 12 in units of 1/256
COUNT_LIMIT = 1020  # a counter's rate never falls below 1 / (COUNT_LIMIT + 1.5)
FRESH = np.uint32((1 << 31) | 1)  # a counter at one half that has seen one bit


def _make_squash() -> np.ndarray:
    """`squash[x + STRETCH_MAX]` = 65536 / (1 + e^(-x / 256)), rounded down, in [1, 65535]; int32.

    Negative `x` mirror positive ones. e^(-1/256) is summed to 160 bits in integers, so that the
    table does not depend on a mathematical library.
    """
    one = 1 << 160
    term, step, k = one, 0, 0
    while term:
        step += -term if k % 2 else term
        k += 1
        term //= 256 * k
    table = np.zeros(2 * STRETCH_MAX + 1, np.int32)
    power = one
    for x in range(STRETCH_MAX + 1):
        value = min((one << 16) // (one + power), 65535)
        table[STRETCH_MAX + x] = value
        table[STRETCH_MAX - x] = 65536 - value
        power = (power * step) >> 160
    return table


SQUASH = _make_squash()
# The largest x with squash(x) <= p, for p in 0..65535; -STRETCH_MAX for p = 0. int16.
STRETCH = np.maximum(
    np.searchsorted(SQUASH, np.arange(65536), side="right") - 1 - STRETCH_MAX, -STRETCH_MAX
).astype(np.int16)
# 65536 / (n + 1.5), rounded down.
RATE = np.array([131072 // (2 * n + 3) for n in range(COUNT_LIMIT + 1)], np.int64)
# The mixers' first weights, of 65,536: for "is it the centre", for the sign, for magnitudes.
WEIGHT_START = np.array(
    [
        [0, 18000, 9000, 14000, 5000, 9000, 19000, 8000],
        [0, 0, 0, 32000, 13000, 25000, 6000, 0],
        [3000, 13000, 10000, 14000, 5000, 10000, 9000, 7000],
    ],
    np.int64,
)
# The same where places of a kernel are frequencies.
FREQUENCY_WEIGHT_START = np.array(
    [
        [-17000, 17000, 10000, -1000, 4000, 11000, 32000, 20000],
        [-3000, -2000, -4000, 26000, 6000, 28000, 7000, 2000],
        [-3000, 8000, 16000, 9000, 3000, 15000, 10000, 6000],
    ],
    np.int64,
)
# How fast a mixer learns after n decisions.
PACE = np.array([5 + 500 // (n + 50) for n in range(501)], np.int64)


@jit
def learn(counter: np.uint32, bit: int) -> np.uint32:
    """A counter, probability of a 1 (22 bits) and number of bits seen (10 bits), after `bit`."""
    one = np.int64(counter >> np.uint32(10))
    count = counter & np.uint32(1023)
    one += ((bit * 4194303 - one) * RATE[count]) >> 16
    return np.uint32((one << 10) | (np.int64(count) + (count < COUNT_LIMIT)))


@jit
def inherit(one: int) -> np.uint32:
    """A new counter that begins at its parent's probability, the firmer the rarer its bit is."""
    rare = min(one, 4194304 - one)
    return np.uint32((one << 10) | min(max((1 << 18) // (rare + 1), 1), 255))


@jit
def class_of(value: int, scale: int) -> int:
    """A signed difference in one of five classes, 2 for small ones."""
    size = abs(value)
    if 2 * size < scale:
        return 2
    if size < 2 * scale:
        return 3 if value > 0 else 1
    return 4 if value > 0 else 0


@jit
def log_class(size: int) -> int:
    """A magnitude from 0 on in one of 48 classes, four an octave."""
    if size < 8:
        return size
    octave = 0
    while (size >> octave) >= 8:
        octave += 1
    return min(4 + 4 * octave + (size >> octave) - 4, 47)
