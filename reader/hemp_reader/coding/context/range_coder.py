"""The range coder of the context coder: binary decisions with a probability <-> bytes.

A carry-propagating range coder (G. N. N. Martin, *Range encoding*, 1979) on a range of 40 to 48
bits, so that even a decision of probability 1/65536 costs what it should.

The `state` of a coder is an int64 array of four: `low` (encoding), `range`, `position` in the
buffer, and `code`, the value read minus `low` (decoding).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hemp_reader.numba_tools import inlined, jit

DECODE, ENCODE, MEASURE, LENGTHS, PRICED = 0, 1, 2, 3, 4
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


@inlined
def code_step(mode, one, bit, low, width, position, buffer):  # type: ignore[no-untyped-def]
    """Code a decision that is 1 with probability `one` / 65536, from 1 to 65535.

    The state is in variables, so that a loop keeps it in registers; `low` stands for `code` when
    decoding. See `load_coder`.

    Returns:
        The decision, and low, width, position after it.
    """
    zero = (width >> 16) * (65536 - one)  # a 0 takes the lower part of the range
    if mode == DECODE:
        # Without a branch: which way it goes cannot be foreseen.
        bit = np.int64(low >= zero)
        low -= zero * bit
        width = zero + (width - 2 * zero) * bit
        while width < BOTTOM:
            byte = np.int64(0)
            if position < len(buffer):
                byte = np.int64(buffer[np.uint64(position)])
            position += 1
            low = (low << 8) | byte
            width <<= 8
    elif mode == ENCODE:
        low += zero * bit
        width = zero + (width - 2 * zero) * bit
        if low >= TOP:
            low -= TOP
            _carry(buffer, position)
        while width < BOTTOM:
            buffer[np.uint64(position)] = low >> 40
            position += 1
            low = (low & (BOTTOM - 1)) << 8
            width <<= 8
    return bit, low, width, position


@inlined
def load_coder(mode, state):  # type: ignore[no-untyped-def]
    """Low (decoding: code), width and position of a state, for `code_step`."""
    return state[3] if mode == DECODE else state[0], state[1], state[2]


@inlined
def store_coder(mode, state, low, width, position):  # type: ignore[no-untyped-def]
    """Put back what `load_coder` took."""
    state[3 if mode == DECODE else 0] = low
    state[1], state[2] = width, position


@jit
def _carry(buffer: np.ndarray, position: int) -> None:
    i = position - 1
    while buffer[i] == 255:
        buffer[i] = 0
        i -= 1
    buffer[i] += 1


@jit
def code_bit(mode: int, state: np.ndarray, buffer: np.ndarray, one: int, bit: int) -> int:
    """`code_step` on a state."""
    low, width, position = load_coder(mode, state)
    bit, low, width, position = code_step(mode, one, bit, low, width, position, buffer)
    store_coder(mode, state, low, width, position)
    return bit


@jit
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


@dataclass(frozen=True)
class Steps:
    """Single decisions of a coder, for what is no loop.

    Attributes:
        mode: DECODE or ENCODE.
        state: Of the coder; it moves on.
        buffer: Bytes to read or to fill.
    """

    mode: int
    state: np.ndarray
    buffer: np.ndarray

    def decide(self, one: int, bit: int = 0) -> int:
        """Code a decision that is 1 with probability `one` / 65536."""
        return int(code_bit(self.mode, self.state, self.buffer, one, bit))

    def uniform(self, size: int, value: int = 0) -> int:
        """Code a number below `size`, all of them equally likely."""
        coded = np.array([value], np.int32)
        code_uniform(self.mode, self.state, self.buffer, coded, size)
        return int(coded[0])


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
        _carry(buffer, position)
    return (buffer[:position].tobytes() + end.to_bytes(6, "big")).rstrip(b"\0")
