"""The range coder of the context coder: binary decisions with a probability <-> bytes.

A carry-propagating range coder (G. N. N. Martin, *Range encoding*, 1979) on a range of 40 to 48
bits, so that even a decision of probability 1/65536 costs what it should.

The `state` of a coder is an int64 array of four: `low` (encoding), `range`, `position` in the
buffer, and `code`, the value read minus `low` (decoding).
"""

from __future__ import annotations

import numpy as np
from numba import njit

DECODE, ENCODE, MEASURE = 0, 1, 2
TOP = 1 << 48  # the range lies in [BOTTOM, TOP]
BOTTOM = 1 << 40
HALF = 32_768  # probability one half, of 65,536
MARGIN = 4096  # bytes that must be free before a weight is coded: its decisions are at most 1,100


def start_encoder() -> np.ndarray:
    """The state before the first decision, also for measuring."""
    return np.array([0, TOP, 0, 0], np.int64)


def start_decoder(buffer: np.ndarray) -> np.ndarray:
    """The state before the first decision: six bytes are read, beyond the end there are zeros."""
    code = int.from_bytes(buffer[:6].tobytes().ljust(6, b"\0"), "big")
    return np.array([0, TOP, 6, code], np.int64)


@njit(cache=True, nogil=True)
def _put(state: np.ndarray, buffer: np.ndarray, low_part: int, bit: int) -> None:
    if bit:
        state[0] += low_part
        state[1] -= low_part
    else:
        state[1] = low_part
    if state[0] >= TOP:
        state[0] -= TOP
        _carry(state, buffer)
    while state[1] < BOTTOM:
        buffer[state[2]] = state[0] >> 40
        state[2] += 1
        state[0] = (state[0] & (BOTTOM - 1)) << 8
        state[1] <<= 8


@njit(cache=True, nogil=True)
def _carry(state: np.ndarray, buffer: np.ndarray) -> None:
    i = state[2] - 1
    while buffer[i] == 255:
        buffer[i] = 0
        i -= 1
    buffer[i] += 1


@njit(cache=True, nogil=True)
def _get(state: np.ndarray, buffer: np.ndarray, low_part: int) -> int:
    bit = 0
    if state[3] >= low_part:
        bit = 1
        state[3] -= low_part
        state[1] -= low_part
    else:
        state[1] = low_part
    while state[1] < BOTTOM:
        byte = 0
        if state[2] < len(buffer):
            byte = np.int64(buffer[state[2]])
        state[2] += 1
        state[3] = (state[3] << 8) | byte
        state[1] <<= 8
    return bit


@njit(cache=True, nogil=True)
def code_bit(mode: int, state: np.ndarray, buffer: np.ndarray, one: int, bit: int) -> int:
    """Code a decision that is 1 with probability `one` / 65536, from 1 to 65535; returns it."""
    low_part = (state[1] >> 16) * (65536 - one)  # a 0 takes the lower part of the range
    if mode == DECODE:
        return _get(state, buffer, low_part)
    if mode == ENCODE:
        _put(state, buffer, low_part, bit)
    return bit


@njit(cache=True, nogil=True)
def code_uniform(
    mode: int, state: np.ndarray, buffer: np.ndarray, values: np.ndarray, size: int
) -> bool:
    """Code int32 `values` below `size`, all equally likely, by halving the interval.

    Returns:
        False if the buffer is too small.
    """
    for t in range(len(values)):
        if mode == ENCODE and state[2] + MARGIN > len(buffer):
            return False
        low, high = 0, size
        while high - low > 1:
            middle = (low + high) >> 1
            one = ((high - middle) << 16) // (high - low)
            if code_bit(mode, state, buffer, one, 1 if values[t] >= middle else 0):
                low = middle
            else:
                high = middle
        values[t] = low
    return True


def finish(state: np.ndarray, buffer: np.ndarray) -> bytes:
    """All the bytes: the fewest that, with zeros behind them, lie in the range."""
    low, width, position = (int(entry) for entry in state[:3])
    for size in range(7):
        unit = 1 << (48 - 8 * size)
        end = -(-low // unit) * unit
        if end < low + width:
            break
    if end >= TOP:
        end -= TOP
        _carry(state, buffer)
    return (buffer[:position].tobytes() + end.to_bytes(6, "big")).rstrip(b"\0")
