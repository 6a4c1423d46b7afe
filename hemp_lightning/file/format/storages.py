"""Storages: which of them holds a tensor, and tensors to words and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hemp_reader.format import storages
from hemp_reader.format.storages import BRAIN, FLOAT32, HALF, Storage

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in storages.EXACT}
"""Dtypes by the names that a file gives them."""

EXACT = {DTYPES[name]: storage for name, storage in storages.EXACT.items()}
"""The storage that holds a dtype exactly."""

FLOAT_DTYPES = {"steps": HALF, "float16": HALF, "bfloat16": BRAIN, "float32": FLOAT32}
"""How float32 tensors may be held, by the name of the option; with `steps` those of two axes."""

QUANTIZABLE = tuple(DTYPES[name] for name in storages.QUANTIZABLE)
"""Dtypes of tensors that can be quantized."""


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
    held = DTYPES[storage.held]
    exact = torch.where(torch.isfinite(tensor), tensor, 0.0)
    error = (exact.to(held).float() - exact).abs()
    size = exact.abs()
    largest = size.max() if size.numel() else size.new_zeros(())
    unit = torch.finfo(held).eps / 2
    tolerance = torch.maximum(size * unit, largest * 2.0**-22)
    if limits is not None:
        tolerance = torch.minimum(tolerance, limits)
    return bool((error <= tolerance).all())


def to_words(tensor: Tensor, storage: Storage) -> np.ndarray:
    """Entries in row-major order as native unsigned integers of `storage.word` bytes."""
    flat = tensor.to(DTYPES[storage.held]).contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(f"u{storage.word}")


def tensor_of(words: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor with these words, as `Content.words` gives them; it takes their memory.

    Example:
        >>> tensor_of(np.array([0x3E9A], np.uint16), "bfloat16", (1, 1))
        tensor([[0.3008]], dtype=torch.bfloat16)
    """
    if 0 in shape:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.from_numpy(words.view(np.uint8)).view(DTYPES[dtype]).reshape(shape)


def has_nan(tensor: Tensor) -> bool:
    """Whether an entry is NaN, whatever the dtype."""
    if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
        tensor = tensor.float()  # float8 has no test of its own
    if tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)
    can_be = tensor.is_floating_point() or tensor.is_complex()
    return can_be and bool(tensor.isnan().any())
