"""Symbols of a count table -> words, by the asymmetric numeral system of constriction."""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np

from hemp_reader.coding.tuples.count_table import CountTable


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
