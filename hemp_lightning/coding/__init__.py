"""How do indices become bytes? Coders, all of them without loss."""

from __future__ import annotations

import importlib
from typing import Any

from hemp_lightning.coding.coder import Coder
from hemp_reader.coding import DECODERS, OWN_NUMBERS, Entry

__all__ = ["CODERS", "Coder", "get_coder", "register_coder"]

_CLASSES = {
    "raw": "compressors.RawCoder",
    "tuples": "tuples.coder.TuplesCoder",
    "context": "context.coder.ContextCoder",
    "lzma": "compressors.LzmaCoder",
    "bz2": "compressors.Bz2Coder",
    "zlib": "compressors.ZlibCoder",
    "fast": "context.fast_coder.FastCoder",
    "frequency": "context.frequency_coder.FrequencyCoder",
}

CODERS = {
    name: Entry(DECODERS[name].number, f"{__name__}.{module}", class_name)
    for name, (module, _, class_name) in ((n, c.rpartition(".")) for n, c in _CLASSES.items())
}
"""Coders by name, each with the number that stands for it in a file and never changes."""


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
    entry = Entry(number, coder.__module__, coder.__qualname__)
    for name, other in CODERS.items():
        if (name == coder.name) != (other.number == number) or (
            name == coder.name and other != entry
        ):
            raise ValueError(
                f"`number` {number} and the name {coder.name!r} must be of one coder alone; found "
                f"{name!r} with {other.number}. Choose another name or number"
            )
    CODERS[coder.name] = DECODERS[coder.name] = entry


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
    return getattr(importlib.import_module(entry.module), entry.class_name)(**options)
