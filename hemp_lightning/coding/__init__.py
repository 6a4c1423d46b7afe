"""How do indices become bytes? Coders, all of them without loss."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from hemp_lightning.coding.coder import Coder
from hemp_lightning.errors import HempFileError

__all__ = ["CODERS", "Coder", "coder_by_id", "get_coder", "register_coder"]


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
    "frequency": _Entry(7, "context.frequency_coder", "FrequencyCoder"),
}
"""Coders by name, each with the number that stands for it in a file and never changes."""


OWN_NUMBERS = range(128, 256)
"""Numbers that no version of this package gives to a coder: they are free for coders of users."""


def register_coder(coder: type[Coder], number: int) -> None:
    """Make a coder of your own known by its `name`, for this process.

    A file that it wrote is read only where the coder is registered under the same number.

    Args:
        coder: A class with `name`, `encode`, `decode` and `table_bytes`, made without arguments.
        number: What stands for it in a file, one of `OWN_NUMBERS`.

    Raises:
        ValueError: If the name or the number belongs to another coder.
    """
    if number not in OWN_NUMBERS:
        raise ValueError(f"`number` must be from 128 to 255; found {number}")
    entry = _Entry(number, coder.__module__, coder.__qualname__)
    for name, other in CODERS.items():
        if (name == coder.name) != (other.number == number) or (
            name == coder.name and other != entry
        ):
            raise ValueError(
                f"`number` {number} and the name {coder.name!r} must be of one coder alone; found "
                f"{name!r} with {other.number}. Choose another name or number"
            )
    CODERS[coder.name] = entry


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
    inside = entry.number < OWN_NUMBERS.start
    module = importlib.import_module(f"{__name__}.{entry.module}" if inside else entry.module)
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
