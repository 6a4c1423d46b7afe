"""Gluon's names as Triton's interpreter runs them: it interprets Triton, but not Gluon.

Layouts say which thread holds what and change no result. Shared memory is a NumPy array. Imported
in a process with `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, TensorHandle

from hemp_lightning.entropy import cuda, cuda_parts, cuda_shared


class SharedMemory:
    """As much of `shared_memory_descriptor` as the kernel uses."""

    made = 0

    def __init__(self, dtype: Any, shape: list[int], layout: None, value: Any) -> None:
        SharedMemory.made += 1
        self.data = value.handle.data.copy()

    def atomic_scatter_add(self, values: Any, indices: Any, axis: int, mask: Any) -> None:
        chosen = mask.handle.data
        np.add.at(self.data, indices.handle.data[chosen], values.handle.data[chosen])
        assert self.data.min() >= 0, "32 bits are too few"

    def gather(self, indices: Any, axis: int) -> Any:
        handle = TensorHandle(self.data[indices.handle.data], tl.int32)
        return tl.tensor(handle, tl.block_type(tl.int32, list(indices.shape)))


class Gluon:
    """`triton.language`, with what Gluon adds to it."""

    allocate_shared_memory = SharedMemory

    def __getattr__(self, name: str) -> Any:
        return getattr(tl, name)

    def arange(self, start: int, end: int, layout: None) -> Any:
        return tl.arange(start, end)

    def full(self, shape: list[int], value: Any, dtype: Any, layout: None = None) -> Any:
        return tl.full(shape, value, dtype)

    def barrier(self) -> None:
        pass

    def BlockedLayout(self, *_: Any) -> None:
        pass

    SwizzledSharedLayout = BlockedLayout


def install(rounds: int) -> None:
    """Run `cuda_shared.accumulate` so from now on, with few `rounds`, wherever tables fit."""
    kernel = cuda_shared.accumulate.fn
    cuda_shared.CONSTANTS["ROUNDS"] = rounds
    for name, value in (
        ("gl", Gluon()),
        ("_row", cuda_parts.row),
        ("_locate", cuda_parts.locate),
        ("accumulate", InterpretedFunction(kernel)),
        ("TUPLES", rounds * cuda_shared.THREADS),
    ):
        setattr(cuda_shared, name, value)
    cuda.shares = lambda layout, device: cuda_shared.fits(layout)
