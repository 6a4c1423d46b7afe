"""Whole files: header, directory and checksums of what `hemp_reader.format.files` reads."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import IO

from hemp_reader.format.directory import (
    MAX_DIRECTORY,
    Record,
    Update,
    deflate,
    lowest_version,
    write_directory,
)
from hemp_reader.format.files import CHECKSUM, DEFLATED, HEADER, MAGIC


def write_file(
    out: IO[bytes],
    records: list[Record],
    section_sizes: list[int],
    sections: IO[bytes],
    metadata: Mapping[str, str] | None = None,
    update: Update | None = None,
) -> None:
    """Write header and directory, then the sections, which have their checksums already."""
    directory = write_directory(records, section_sizes, metadata, update)
    deflated = deflate(directory)
    stored = directory if deflated is None else deflated
    if len(directory) > MAX_DIRECTORY:
        raise ValueError(f"a directory has at most {MAX_DIRECTORY} bytes; found {len(directory)}")
    version = lowest_version(records, metadata or {}, update)
    header = HEADER.pack(MAGIC, version, 0 if deflated is None else DEFLATED, len(stored))
    out.write(header + CHECKSUM.pack(zlib.crc32(stored, zlib.crc32(header))) + stored)
    sections.seek(0)
    while chunk := sections.read(2**20):
        out.write(chunk)


def checksum_of(section: bytes) -> bytes:
    """What follows a section in the file."""
    return CHECKSUM.pack(zlib.crc32(section))
