"""How do bytes become indices? Decoders of every coder that a file may name."""

from __future__ import annotations

import importlib
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.errors import HempFileError


class Decoder(Protocol):
    """Bytes -> indices.

    A payload is self-contained: with the shape and the number of levels it decodes by itself. No
    payload, however hostile, makes `decode` raise anything but `HempFileError` or take memory
    beyond a small multiple of the shape it is asked for.
    """

    name: ClassVar[str]

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape: uint8 up to 256 levels, else uint16.

        Raises:
            HempFileError: If `data` is no payload of this coder for that shape and `num_levels`;
                its offset counts from the start of `data`.
        """
        ...

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """How many bytes of the payload describe the model and not the indices."""
        ...


class Entry(NamedTuple):
    """Where a class lives; it is imported when it is first wanted."""

    number: int
    module: str
    class_name: str


RAW, TUPLES, CONTEXT = 0, 1, 2

DECODERS = {
    "raw": Entry(RAW, "hemp_reader.coding.compressors", "RawDecoder"),
    "tuples": Entry(TUPLES, "hemp_reader.coding.tuples.decoder", "TuplesDecoder"),
    "context": Entry(CONTEXT, "hemp_reader.coding.context.decoder", "ContextDecoder"),
    "lzma": Entry(3, "hemp_reader.coding.compressors", "LzmaDecoder"),
    "bz2": Entry(4, "hemp_reader.coding.compressors", "Bz2Decoder"),
    "zlib": Entry(5, "hemp_reader.coding.compressors", "ZlibDecoder"),
    "fast": Entry(6, "hemp_reader.coding.context.decoder", "FastDecoder"),
    "frequency": Entry(7, "hemp_reader.coding.context.decoder", "FrequencyDecoder"),
}
"""Decoders by name, each with the number that stands for it in a file and never changes."""

OWN_NUMBERS = range(128, 256)
"""Numbers that no version gives to a coder: they are free for coders of users."""


def decoder_by_id(number: int) -> Decoder:
    """The decoder of a payload, by the number in the file.

    Raises:
        HempFileError: If this version knows none of that number.

    Example:
        >>> decoder_by_id(3).name
        'lzma'
    """
    for entry in DECODERS.values():
        if entry.number == number:
            found: Decoder = getattr(importlib.import_module(entry.module), entry.class_name)()
            return found
    numbers = ", ".join(f"{entry.number} ({name})" for name, entry in DECODERS.items())
    raise HempFileError(None, 0, f"a coder's number, one of {numbers}", str(number))
