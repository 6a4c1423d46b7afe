"""Storages: the forms in which the entries of a tensor stand in a file, and back to arrays."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import numpy as np

ITEM_BYTES = {
    **dict.fromkeys(("int8", "uint8", "bool", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32", "complex32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
}
"""Bytes of an entry, by the name of the dtype."""


class Storage(NamedTuple):
    """One form of storing entries.

    Attributes:
        number: What stands for it in a file; it never changes.
        dtype: Of the tensor, by name.
        held: Dtype in which its entries are held.
        word: Bytes that belong together in byte order: a complex number has two words.
    """

    number: int
    dtype: str
    held: str
    word: int

    @property
    def label(self) -> str:
        """How tables name it: the dtype, and the one that holds it if that is another."""
        if self.number == STEPS.number:
            return f"{self.dtype} as steps"
        return self.dtype if self.dtype == self.held else f"{self.dtype} as {self.held}"

    @property
    def itemsize(self) -> int:
        """Bytes of an entry of the tensor."""
        return ITEM_BYTES[self.dtype]

    @property
    def num_words(self) -> int:
        """Words of an entry: 2 of a complex number, else 1."""
        return ITEM_BYTES[self.held] // self.word


_EXACT = (
    (0, "float32", 4),
    (2, "float16", 2),
    (3, "bfloat16", 2),
    (4, "float64", 8),
    (5, "int8", 1),
    (6, "int16", 2),
    (7, "int32", 4),
    (8, "int64", 8),
    (9, "uint8", 1),
    (10, "bool", 1),
    (11, "complex64", 4),
    (12, "complex128", 8),
    (13, "complex32", 2),
    (14, "uint16", 2),
    (15, "uint32", 4),
    (16, "uint64", 8),
    (17, "float8_e4m3fn", 1),
    (18, "float8_e5m2", 1),
)

HALF = Storage(1, "float32", "float16", 2)
BRAIN = Storage(19, "float32", "bfloat16", 2)

STEPS = Storage(20, "float32", "float32", 4)

EXACT = {dtype: Storage(number, dtype, dtype, word) for number, dtype, word in _EXACT}
"""The storage that holds a dtype exactly, by the name of the dtype."""

FLOAT32 = EXACT["float32"]

STORAGES = {storage.number: storage for storage in (*EXACT.values(), HALF, BRAIN, STEPS)}
"""Storages by number."""

QUANTIZABLE = ("float32", "float16", "bfloat16", "float64")
"""Dtypes of tensors that can be quantized."""

INTEGERS = tuple(dtype for dtype in EXACT if dtype.startswith(("int", "uint")))
"""Integer dtypes."""


def widened(words: np.ndarray, storage: Storage) -> np.ndarray:
    """Words of the dtype of a tensor, from those that a file holds, in memory of their own.

    Example:
        >>> widened(np.array([0x3C00], np.uint16), HALF).view(np.float32)
        array([1.], dtype=float32)
    """
    if storage == HALF:
        return words.view(np.float16).astype(np.float32).view(np.uint32)
    if storage == BRAIN:
        return words.astype(np.uint32) << 16
    return np.array(words)


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    """Words of one of the dtypes in `QUANTIZABLE`, nearest to finite float32 values, ties to even.

    Example:
        >>> [hex(narrowed(np.float32([0.3]), dtype)[0]) for dtype in ("float16", "bfloat16")]
        ['0x34cd', '0x3e9a']
    """
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False).view(f"u{ITEM_BYTES[dtype]}")


def array_of(
    words: np.ndarray, dtype: str, shape: tuple[int, ...], *, ml_dtypes: bool = False
) -> np.ndarray:
    """The array with these words.

    NumPy has no bfloat16 and no float8: they come as the float32 numbers that they are, or in the
    dtypes of the package `ml_dtypes`. A complex32 comes as complex64.

    Args:
        words: Native unsigned integers, as many as the entries have.
        dtype: By name.
        shape: Of the array.
        ml_dtypes: Whether the dtypes of that package are wanted.

    Example:
        >>> array_of(np.array([0x3E9A], np.uint16), "bfloat16", (1, 1))
        array([[0.30078125]], dtype=float32)
    """
    if dtype == "complex32":
        return words.view(np.float16).astype(np.float32).view(np.complex64).reshape(shape)
    if dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        if ml_dtypes:
            return words.view(getattr(importlib.import_module("ml_dtypes"), dtype)).reshape(shape)
        if dtype == "bfloat16":
            return (words.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        if dtype == "float8_e5m2":  # the high byte of a float16
            return (words.astype(np.uint16) << 8).view(np.float16).astype(np.float32).reshape(shape)
        return _FLOAT8[words].reshape(shape)
    return words.view(dtype).reshape(shape)


def _float8_numbers() -> np.ndarray:
    """The numbers of float8_e4m3fn by their bits: 4 digits of exponent, 3 of mantissa, no infinity.

    float32 `(256,)`.
    """
    bits = np.arange(256)
    exponents, mantissas = bits >> 3 & 15, bits & 7
    sizes = np.where(
        exponents == 0,
        np.ldexp(mantissas.astype(np.float64), -9),
        np.ldexp(mantissas + 8.0, exponents - 10),
    )
    sizes[bits & 127 == 127] = np.nan
    return np.copysign(sizes, np.where(bits < 128, 1.0, -1.0)).astype(np.float32)


_FLOAT8 = _float8_numbers()
