"""Symbols of a count table <-> words, by the asymmetric numeral system of constriction."""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np

from hemp_lightning.coding.tuples.count_table import CountTable

POPPED = 2**16  # symbols that are decoded at a time, a multiple of 8
_ENOUGH = 2**16  # words that no so many symbols of `PRECISION` bits use up, with the coder's state
_FED = 2**18  # words that the coder is given at a time


class Encoder:
    """A stack of symbols: what is to be read first is pushed last."""

    def __init__(self) -> None:
        self._coder = constriction.stream.stack.AnsCoder()

    def push(self, symbols: np.ndarray, model: Any) -> None:
        """Code symbols, int32; nothing where there is but one."""
        if model is not None and len(symbols):
            self._coder.encode_reverse(symbols, model)

    def to_bytes(self) -> bytes:
        """Little-endian words of 32 bits, without the zeros at the end."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes()).rstrip(b"\0")


class Decoder:
    """Symbols from coded words, which go to the coder piece by piece, from their end.

    The coder would copy all of them at once, and a copy of a large payload is a large one.

    Args:
        stored: Bytes of little-endian words of 32 bits; zeros at the end may be missing.
    """

    def __init__(self, stored: np.ndarray) -> None:
        whole = len(stored) // 4 * 4
        last = np.zeros(4, np.uint8)
        last[: len(stored) - whole] = stored[whole:]
        self._words = stored[:whole].view("<u4")
        self._coder = self._holding(last.view("<u4")[: len(stored) > whole])

    @staticmethod
    def _holding(words: np.ndarray) -> Any:
        return constriction.stream.stack.AnsCoder(words.astype(np.uint32))

    def pop(self, size: int, model: Any) -> np.ndarray:
        """Decode `size` symbols, int32."""
        if model is None or not size:
            return np.zeros(size, np.int32)
        parts = []
        for start in range(0, size, POPPED):
            if len(self._words) and self._coder.num_words() < _ENOUGH:
                rest = self._coder.get_compressed()
                self._words, next_words = np.split(self._words, [max(len(self._words) - _FED, 0)])
                self._coder = self._holding(np.concatenate([next_words, rest]))
            parts.append(self._coder.decode(model, min(POPPED, size - start)))
        return np.concatenate(parts)

    def is_empty(self) -> bool:
        """Whether all was decoded."""
        return not len(self._words) and bool(self._coder.is_empty())

    def bits_left(self) -> int:
        """Number of bits that are not decoded."""
        return 32 * len(self._words) + int(self._coder.num_valid_bits())


def model_of(table: CountTable) -> Any:
    """A model with exactly the weights of a table; None if it has but one symbol.

    From probabilities `p` constriction makes the cumulated weights
    `i + floor(sum(p[:i]) * (2^24 - n) / sum(p))`. Here `p` are integers with the sum `2^24 - n`, so
    that each step is exact in float64 and the result does not depend on the machine.
    """
    weights = table.weights()
    if len(weights) == 1:
        return None
    return constriction.stream.model.Categorical(
        (weights - 1).astype(np.float64), lazy=False, perfect=False
    )
