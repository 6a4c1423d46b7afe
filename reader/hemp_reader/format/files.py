"""Whole files: header, directory, checksums, read with caps."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

from hemp_reader.bitstream import Bytes, FileBytes
from hemp_reader.errors import HempFileError, located
from hemp_reader.format.directory import (
    ALIAS,
    MAX_DIRECTORY,
    Record,
    inflate,
    lowest_version,
    read_directory,
)

MAGIC = b"HEMP"
VERSIONS = (1, 2, 3, 4)

HEADER = struct.Struct("<4sBBI")  # magic, version, flags, size of the directory; CRC32 follows
CHECKSUM = struct.Struct("<I")
DEFLATED = 1
_HELD = 2**22  # bytes of a section in memory
_START = HEADER.size + CHECKSUM.size


class HempFile:
    """A `.hemp` file that is open for reading: its directory, and its sections one after another.

    Args:
        file: The file, at its beginning.
        max_bytes: The most bytes that its tensors may take in memory; None for
            `default_max_bytes` of its size.

    Attributes:
        own_records: The directory.
        records: Of the tensors that the file stands for: the same, but of an update those of the
            base as well, once they are known.
        metadata: What the file says of itself beside its tensors.
        update: What makes it an update, or None.
        size: Bytes of the file.

    Raises:
        HempFileError: If header or directory are broken, sections and size do not agree, or the
            tensors would take more than `max_bytes`.
    """

    def __init__(self, file: IO[bytes], max_bytes: int | None = None) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._read_directory()
        self.records = self.own_records
        self.base: Any = None  # the `hemp_reader.updates.Base` of an update
        self._limit = default_max_bytes(self.size) if max_bytes is None else max_bytes
        self._check_size()

    def stand_for(self, records: list[Record]) -> None:
        """Take the records of the tensors that an update stands for.

        Raises:
            HempFileError: If the tensors would take more than is allowed.
        """
        self.records = records
        self._check_size()

    def _check_size(self) -> None:
        limit = self._limit
        if self.num_bytes > limit:
            raise HempFileError(
                None,
                _START,
                f"tensors of at most `max_bytes`={limit} bytes",
                f"{self.num_bytes} bytes (raise `max_bytes` if you trust the file)",
            )

    @property
    def num_bytes(self) -> int:
        """Bytes that the tensors take in memory, shared ones once."""
        return sum(record.num_bytes for record in self.records if record.kind != ALIAS)

    def sections(self) -> Iterator[tuple[int, bytes | FileBytes, list[Record]]]:
        """Sections in order: offset in the file, bytes with a right checksum, their records.

        Those of a large section are left in the file.

        Raises:
            HempFileError: If a checksum is wrong.
        """
        groups: list[list[Record]] = [[] for _ in self._section_sizes]
        for record in self.own_records:
            if record.kind != ALIAS:
                groups[record.section].append(record)
        start = self._sections_start
        for size, group in zip(self._section_sizes, groups, strict=True):
            yield start, self._section(start, size), group  # not held here: it may be large
            start += size + CHECKSUM.size

    def _section(self, start: int, size: int) -> bytes | FileBytes:
        self._file.seek(start)
        checksum, data = 0, b""
        for begin in range(0, size, _HELD):
            data = self._take(min(_HELD, size - begin), "a section")
            checksum = zlib.crc32(data, checksum)
        self._check(checksum, start + size, "the section")
        return data if size <= _HELD else FileBytes(self._file, start, size)

    def _take(self, size: int, what: str) -> bytes:
        start = self._file.tell()
        data = self._file.read(size)
        if len(data) < size:
            raise HempFileError(None, start, f"{size} bytes of {what}", f"{len(data)} to the end")
        return data

    def _check(self, checksum: int, offset: int, what: str) -> None:
        (stored,) = CHECKSUM.unpack(self._take(CHECKSUM.size, "a checksum"))
        if stored != checksum:
            expected = f"the checksum {checksum:08x} of {what} before it"
            raise HempFileError(None, offset, expected, f"{stored:08x}")

    def _read_directory(self) -> None:
        if self.size < _START:
            raise HempFileError(None, 0, f"a header of {_START} bytes", f"a file of {self.size}")
        self._file.seek(0)
        header = self._take(HEADER.size, "the header")
        magic, version, flags, size = HEADER.unpack(header)
        if magic != MAGIC:
            raise HempFileError(None, 0, f"a .hemp file, which begins with {MAGIC!r}", repr(magic))
        if version not in VERSIONS:
            raise HempFileError(None, 4, "format version 1, 2, 3 or 4", f"version {version}")
        if flags & ~DEFLATED:
            raise HempFileError(None, 5, "flags 0 or 1", str(flags))
        if size > min(MAX_DIRECTORY, self.size - _START):
            limit = min(MAX_DIRECTORY, self.size - _START)
            raise HempFileError(None, 6, f"a directory of at most {limit} bytes", f"{size} bytes")
        self._file.seek(_START)
        stored = self._take(size, "the directory")
        self._file.seek(HEADER.size)
        self._check(zlib.crc32(stored, zlib.crc32(header)), HEADER.size, "header and directory")
        with located(_START):
            plain = inflate(stored) if flags & DEFLATED else stored
            directory = read_directory(plain, version)
        self.own_records, self._section_sizes, self.metadata, self.update = directory
        if self.update is not None:
            self.update = replace(self.update, offset=_START + self.update.offset)
        needed = lowest_version(self.own_records, self.metadata, self.update)
        if version < needed:
            raise HempFileError(None, 4, f"format version {needed}", f"version {version}")
        self._sections_start = _START + size
        end = self._sections_start + sum(n + CHECKSUM.size for n in self._section_sizes)
        if end != self.size:
            raise HempFileError(
                None, min(end, self.size), f"a file of {end} bytes", f"{self.size} bytes"
            )


@contextmanager
def opened(
    path: str | os.PathLike[str] | Bytes, max_bytes: int | None = None
) -> Iterator[HempFile]:
    """Open a `.hemp` file or the bytes of one; every `HempFileError` inside tells its path.

    Raises:
        HempFileError: As `HempFile`.
        OSError: If it cannot be read.
    """
    if isinstance(path, (bytes, bytearray, memoryview)):
        yield HempFile(io.BytesIO(path), max_bytes)
        return
    with located(0, os.fspath(path)), open(path, "rb") as file:
        yield HempFile(file, max_bytes)


def default_max_bytes(file_bytes: int) -> int:
    """What tensors of a file may take in memory unless told otherwise: 256 MiB + 4096 times it.

    Example:
        >>> default_max_bytes(1_000) // 2**20
        259
    """
    return 2**28 + 4096 * file_bytes
