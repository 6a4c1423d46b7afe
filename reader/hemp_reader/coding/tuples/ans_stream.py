"""Symbols from the words of an asymmetric numeral system, which `constriction` writes.

FORMAT.md, "Coder 1: tuples", has the operations. Compiled and as plain Python they are two loops,
since only one of them has integers without bounds; the tests hold them against each other.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from hemp_reader.coding.tuples.count_table import PRECISION, CountTable
from hemp_reader.numba_tools import IS_COMPILED, jit

POPPED = 2**16
"""Symbols that are decoded at a time, a multiple of 8."""

_MASK = (1 << PRECISION) - 1
_FULL = 1 << 32  # a state below it takes another word
_TOP = 12  # high bits of a quantile for which the first possible symbol is looked up


def cumulated(table: CountTable) -> np.ndarray:
    """The sums of the weights before each symbol of a table, and of all: int64 `(m + 1,)`.

    Example:
        >>> cumulated(CountTable(np.array([4, 9]), np.array([0, 1, 1])))
        array([       0,  8388608, 16777216])
    """
    return np.concatenate([[0], np.cumsum(table.weights())])


class Stack:
    """A stack of symbols.

    Args:
        stored: Bytes of little-endian words of 32 bits; zeros at the end may be missing.

    Example:
        >>> stack = Stack(np.frombuffer(bytes([0, 0, 0, 2]), np.uint8))
        >>> stack.pop(2, np.array([0, 2**23, 2**24])), stack.is_empty()
        (array([0, 0], dtype=int32), False)
    """

    def __init__(self, stored: np.ndarray) -> None:
        # the loop is compiled for bytes that could be written to; what is large is such already
        self._bytes = stored if stored.flags.writeable else stored.copy()
        self._left = len(stored) // 4  # words
        self._state = int.from_bytes(stored[4 * self._left :].tobytes(), "little")
        while self._state < _FULL and self._left:
            self._left -= 1
            word = stored[4 * self._left : 4 * self._left + 4].tobytes()
            self._state = self._state << 32 | int.from_bytes(word, "little")

    def pop(self, size: int, model: np.ndarray) -> np.ndarray:
        """Decode symbols.

        Args:
            size: How many.
            model: Of `cumulated`.

        Returns:
            int32 `(size,)`.
        """
        symbols = np.zeros(size, np.int32)
        if len(model) == 2:  # the only symbol is not coded
            return symbols
        if IS_COMPILED:
            firsts = np.searchsorted(model, np.arange(1 << _TOP) << (PRECISION - _TOP), "right") - 1
            state = np.array([self._state], np.uint64)
            self._left = int(_pop(state, self._bytes, self._left, model, firsts, symbols))
            self._state = int(state[0])
        else:
            for start in range(0, size, POPPED):
                part = symbols[start : start + POPPED]
                part[:] = self._pop_plainly(len(part), model.tolist())
        return symbols

    def _pop_plainly(self, size: int, model: list[int]) -> list[int]:
        state, left, data = self._state, self._left, self._bytes.data
        symbols = []
        for _ in range(size):
            quantile = state & _MASK
            symbol = bisect_right(model, quantile) - 1
            low = model[symbol]
            state = (state >> PRECISION) * (model[symbol + 1] - low) + quantile - low
            if state < _FULL and left:
                left -= 1
                state = state << 32 | int.from_bytes(data[4 * left : 4 * left + 4], "little")
            symbols.append(symbol)
        self._state, self._left = state, left
        return symbols

    def is_empty(self) -> bool:
        """Whether all was decoded."""
        return not self._left and not self._state

    def bits_left(self) -> int:
        """Number of bits that are not decoded."""
        return 32 * self._left + self._state.bit_length()


@jit
def _pop(
    states: np.ndarray,
    data: np.ndarray,
    left: int,
    model: np.ndarray,
    firsts: np.ndarray,
    symbols: np.ndarray,
) -> int:
    """Fill `symbols`; the state is put back, and the number of words left is returned."""
    state = states[0]
    for t in range(len(symbols)):
        quantile = np.int64(state & np.uint64(_MASK))
        symbol = firsts[quantile >> (PRECISION - _TOP)]
        while model[symbol + 1] <= quantile:
            symbol += 1
        low = model[symbol]
        weight = np.uint64(model[symbol + 1] - low)
        state = (state >> np.uint64(PRECISION)) * weight + np.uint64(quantile - low)
        if state < np.uint64(_FULL) and left > 0:
            left -= 1
            state <<= np.uint64(32)
            for i in range(4):
                state |= np.uint64(data[4 * left + i]) << np.uint64(8 * i)
        symbols[t] = symbol
    states[0] = state
    return left
