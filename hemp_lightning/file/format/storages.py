"""Storages: the forms in which the entries of a tensor stand in a file, and back to tensors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Storage(NamedTuple):
    """One form of storing entries.

    Attributes:
        number: What stands for it in a file; it never changes.
        dtype: Of the tensor.
        held: Dtype in which its entries are held.
        word: Bytes that belong together in byte order: a complex number has two words.
    """

    number: int
    dtype: torch.dtype
    held: torch.dtype
    word: int

    @property
    def label(self) -> str:
        """How tables name it: the dtype, and the one that holds it if that is another."""
        dtype, held = (str(d).removeprefix("torch.") for d in (self.dtype, self.held))
        if self.number == STEPS.number:
            return f"{dtype} as steps"
        return dtype if dtype == held else f"{dtype} as {held}"


_EXACT = (
    (0, torch.float32, 4),
    (2, torch.float16, 2),
    (3, torch.bfloat16, 2),
    (4, torch.float64, 8),
    (5, torch.int8, 1),
    (6, torch.int16, 2),
    (7, torch.int32, 4),
    (8, torch.int64, 8),
    (9, torch.uint8, 1),
    (10, torch.bool, 1),
    (11, torch.complex64, 4),
    (12, torch.complex128, 8),
    (13, torch.complex32, 2),
    (14, torch.uint16, 2),
    (15, torch.uint32, 4),
    (16, torch.uint64, 8),
    (17, torch.float8_e4m3fn, 1),
    (18, torch.float8_e5m2, 1),
)

HALF = Storage(1, torch.float32, torch.float16, 2)
BRAIN = Storage(19, torch.float32, torch.bfloat16, 2)

STEPS = Storage(20, torch.float32, torch.float32, 4)

EXACT = {dtype: Storage(number, dtype, dtype, word) for number, dtype, word in _EXACT}
"""The storage that holds a dtype exactly."""

FLOAT32 = EXACT[torch.float32]

FLOAT_DTYPES = {"steps": HALF, "float16": HALF, "bfloat16": BRAIN, "float32": FLOAT32}
"""How float32 tensors may be held, by the name of the option; with `steps` those of two axes."""

STORAGES = {storage.number: storage for storage in (*EXACT.values(), HALF, BRAIN, STEPS)}
"""Storages by number."""

QUANTIZABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Dtypes of tensors that can be quantized."""

INTEGERS = tuple(d for d in EXACT if not (d.is_floating_point or d.is_complex or d == torch.bool))
"""Integer dtypes."""


def fits(tensor: Tensor, storage: Storage, limits: Tensor | None = None) -> bool:
    """Whether a storage holds a float32 tensor within the tolerance of the format.

    Each entry may move by a unit of rounding of itself, `2^-11` in float16 and `2^-8` in bfloat16,
    or by `2^-22` of the largest entry, whichever is more, but none by more than its limit, if there
    are limits; and no finite entry may become infinite.

    Example:
        >>> fits(torch.tensor([1.0, 1e-9]), HALF), fits(torch.tensor([1e-9, 1e-6]), HALF)
        (True, False)
        >>> fits(torch.tensor([70_000.0]), HALF), fits(torch.tensor([70_000.0]), BRAIN)
        (False, True)
    """
    exact = torch.where(torch.isfinite(tensor), tensor, 0.0)
    error = (exact.to(storage.held).float() - exact).abs()
    size = exact.abs()
    largest = size.max() if size.numel() else size.new_zeros(())
    unit = torch.finfo(storage.held).eps / 2
    tolerance = torch.maximum(size * unit, largest * 2.0**-22)
    if limits is not None:
        tolerance = torch.minimum(tolerance, limits)
    return bool((error <= tolerance).all())


def to_words(tensor: Tensor, storage: Storage) -> np.ndarray:
    """Entries in row-major order as native unsigned integers of `storage.word` bytes."""
    flat = tensor.to(storage.held).contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(f"u{storage.word}")


def from_words(words: np.ndarray, storage: Storage, shape: tuple[int, ...]) -> Tensor:
    """The tensor whose entries `to_words` gave; it owns its memory."""
    if 0 in shape:
        return torch.empty(shape, dtype=storage.dtype)
    own = np.array(words)  # they may be a part of the bytes of the file, which are never written
    held = torch.from_numpy(own.view(np.uint8)).view(storage.held).reshape(shape)
    return held.to(storage.dtype)


def has_nan(tensor: Tensor) -> bool:
    """Whether an entry is NaN, whatever the dtype."""
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # float8 has no test of its own
    if tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)
    can_be = tensor.is_floating_point() or tensor.is_complex()
    return can_be and bool(tensor.isnan().any())
