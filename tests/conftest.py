"""Fixtures that several modules share."""

from __future__ import annotations

import pytest
from numba.core.dispatcher import Dispatcher

from hemp_lightning.entropy import (
    cpu,
    dense,
    dense_loops,
    evaluation,
    lengths,
    locating,
    logarithms,
    row_loops,
    sparse,
    sparse_loops,
)
from hemp_lightning.quantization import sorted_weights_loops
from hemp_reader.coding.context import (
    counter_loop,
    mixer,
    mixing_loop,
    model_tables,
    neighbours,
    range_coder,
)

MODULES = (
    counter_loop,
    mixer,
    mixing_loop,
    model_tables,
    neighbours,
    range_coder,
    dense,
    dense_loops,
    evaluation,
    lengths,
    locating,
    logarithms,
    row_loops,
    sorted_weights_loops,
    sparse,
    sparse_loops,
)


@pytest.fixture
def plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled loops are the Python functions that numba compiles.

    NumPy refuses a position beyond the end of an array there, which compiled code does not.
    """
    replaced = 0
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, Dispatcher):
                monkeypatch.setattr(module, name, value.py_func)
                replaced += 1
        for mode, loop in getattr(module, "_LOOPS", {}).items():
            monkeypatch.setitem(module._LOOPS, mode, getattr(loop, "py_func", loop))
    assert replaced > 30 or not cpu.IS_COMPILED
    monkeypatch.setattr(cpu, "IS_COMPILED", True)
