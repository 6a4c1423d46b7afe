"""How do indices become bytes? Coders, all of them without loss."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from hemp_lightning.coding.coder import Coder
from hemp_lightning.errors import HempFileError

__all__ = ["CODERS", "Coder", "coder_by_id", "get_coder"]


class _Entry(NamedTuple):
    """Where a coder lives; it is imported when it is first wanted."""

    number: int
    module: str
    class_name: str


CODERS = {
    "raw": _Entry(0, "compressors", "RawCoder"),
    "tuples": _Entry(1, "tuples.coder", "TuplesCoder"),
    "context": _Entry(2, "context.coder", "ContextCoder"),
    "lzma": _Entry(3, "compressors", "LzmaCoder"),
    "bz2": _Entry(4, "compressors", "Bz2Coder"),
    "zlib": _Entry(5, "compressors", "ZlibCoder"),
    "fast": _Entry(6, "context.fast_coder", "FastCoder"),
}
"""Coders by name, each with the number that stands for it in a file and never changes."""


def get_coder(name: str, **options: Any) -> Coder:
    """The coder of that name.

    Args:
        name: One of `CODERS`.
        **options: What the class takes, such as `order` and `scan` of `"tuples"`.

    Raises:
        ValueError: If there is no such coder.

    Example:
        >>> get_coder("tuples", order=3).order
        3
    """
    if name not in CODERS:
        raise ValueError(f"`coder` must be one of {', '.join(CODERS)}; found {name!r}")
    entry = CODERS[name]
    module = importlib.import_module(f"{__name__}.{entry.module}")
    return getattr(module, entry.class_name)(**options)


def coder_by_id(number: int) -> Coder:
    """The coder that wrote a payload, by the number in the file.

    Raises:
        HempFileError: If this version knows none of that number.

    Example:
        >>> coder_by_id(3).name
        'lzma'
    """
    for name, entry in CODERS.items():
        if entry.number == number:
            return get_coder(name)
    numbers = ", ".join(f"{entry.number} ({name})" for name, entry in CODERS.items())
    raise HempFileError(None, 0, f"a coder's number, one of {numbers}", str(number))
