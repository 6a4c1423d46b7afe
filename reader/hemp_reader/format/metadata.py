"""Metadata: what a file says of itself beside its tensors, strings by name."""

from __future__ import annotations

from collections.abc import Mapping

from hemp_reader.bitstream import ByteReader, varint
from hemp_reader.errors import HempFileError

MAX_METADATA = 2**20
"""The most bytes of all names and strings of the metadata together."""

MAX_METADATA_ENTRIES = 2**12
"""The most strings of the metadata."""


def check_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """A copy of metadata that a file holds.

    Raises:
        TypeError: If it is no mapping of strings to strings.
        ValueError: If it is too large, or a string is not valid Unicode.

    Example:
        >>> check_metadata({"format": "pt"})
        {'format': 'pt'}
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"`metadata` must be a mapping; found {type(metadata).__name__}")
    size = 0
    for key, value in metadata.items():
        for text in (key, value):
            if not isinstance(text, str):
                raise TypeError(f"`metadata` must map strings to strings; found {text!r}")
            try:
                size += len(text.encode())
            except UnicodeEncodeError:
                raise ValueError(
                    f"`metadata` must be valid Unicode; found a lone surrogate in {text[:40]!r}"
                ) from None
    if size > MAX_METADATA or len(metadata) > MAX_METADATA_ENTRIES:
        raise ValueError(
            f"`metadata` must have at most {MAX_METADATA_ENTRIES} entries and {MAX_METADATA} bytes "
            f"of text; found {len(metadata)} entries and {size} bytes"
        )
    return dict(metadata)


def write_metadata(metadata: Mapping[str, str]) -> bytes:
    """The metadata as they stand at the end of a directory.

    Example:
        >>> write_metadata({"format": "pt"}).hex()
        '0106666f726d6174027074'
    """
    parts = [varint(len(metadata))]
    for key, value in metadata.items():
        for text in (key.encode(), value.encode()):
            parts += [varint(len(text)), text]
    return b"".join(parts)


def read_metadata(reader: ByteReader) -> dict[str, str]:
    """The metadata at this place.

    Raises:
        HempFileError: If there are none, they are too large, or a name comes twice.
    """
    count = reader.varint("number of metadata", MAX_METADATA_ENTRIES)
    metadata: dict[str, str] = {}
    left = MAX_METADATA
    for _ in range(count):
        start = reader.offset
        texts = []
        for what in ("the name of metadata", "metadata"):
            size = reader.varint(f"size of {what}", left)
            left -= size
            place, data = reader.offset, reader.take(size, what)
            try:
                texts.append(bytes(data).decode())
            except UnicodeDecodeError as error:
                raise HempFileError(
                    None, place + error.start, f"{what} in UTF-8", "other bytes"
                ) from None
        key, value = texts
        if key in metadata:
            raise HempFileError(None, start, "a new name of metadata", repr(key[:64]))
        metadata[key] = value
    return metadata
