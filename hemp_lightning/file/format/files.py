"""Whole files: header, directory, checksums; reading with caps, writing all or nothing."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hemp_lightning.errors import HempFileError, located
from hemp_lightning.file.format.directory import (
    ALIAS,
    MAX_DIRECTORY,
    Record,
    deflate,
    inflate,
    lowest_version,
    read_directory,
    write_directory,
)
from hemp_lightning.ground.bitstream import FileBytes

MAGIC = b"HEMP"
VERSIONS = (1, 2, 3)

_HEADER = struct.Struct("<4sBBI")  # magic, version, flags, size of the directory; CRC32 follows
_CHECKSUM = struct.Struct("<I")
_DEFLATED = 1
_HELD = 2**22  # bytes of a section in memory
_START = _HEADER.size + _CHECKSUM.size


class HempFile:
    """A `.hemp` file that is open for reading: its directory, and its sections one after another.

    Args:
        file: The file, at its beginning.
        max_bytes: The most bytes that its tensors may take in memory; None for
            `default_max_bytes` of its size.

    Attributes:
        records: The directory.
        metadata: What the file says of itself beside its tensors.
        size: Bytes of the file.

    Raises:
        HempFileError: If header or directory are broken, sections and size do not agree, or the
            tensors would take more than `max_bytes`.
    """

    def __init__(self, file: IO[bytes], max_bytes: int | None = None) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._read_directory()
        limit = default_max_bytes(self.size) if max_bytes is None else max_bytes
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
        for record in self.records:
            if record.kind != ALIAS:
                groups[record.section].append(record)
        start = self._sections_start
        for size, group in zip(self._section_sizes, groups, strict=True):
            yield start, self._section(start, size), group  # not held here: it may be large
            start += size + _CHECKSUM.size

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
        (stored,) = _CHECKSUM.unpack(self._take(_CHECKSUM.size, "a checksum"))
        if stored != checksum:
            expected = f"the checksum {checksum:08x} of {what} before it"
            raise HempFileError(None, offset, expected, f"{stored:08x}")

    def _read_directory(self) -> None:
        if self.size < _START:
            raise HempFileError(None, 0, f"a header of {_START} bytes", f"a file of {self.size}")
        self._file.seek(0)
        header = self._take(_HEADER.size, "the header")
        magic, version, flags, size = _HEADER.unpack(header)
        if magic != MAGIC:
            raise HempFileError(None, 0, f"a .hemp file, which begins with {MAGIC!r}", repr(magic))
        if version not in VERSIONS:
            raise HempFileError(None, 4, "format version 1, 2 or 3", f"version {version}")
        if flags & ~_DEFLATED:
            raise HempFileError(None, 5, "flags 0 or 1", str(flags))
        if size > min(MAX_DIRECTORY, self.size - _START):
            limit = min(MAX_DIRECTORY, self.size - _START)
            raise HempFileError(None, 6, f"a directory of at most {limit} bytes", f"{size} bytes")
        self._file.seek(_START)
        stored = self._take(size, "the directory")
        self._file.seek(_HEADER.size)
        self._check(zlib.crc32(stored, zlib.crc32(header)), _HEADER.size, "header and directory")
        with located(_START):
            plain = inflate(stored) if flags & _DEFLATED else stored
            self.records, self._section_sizes, self.metadata = read_directory(plain, version)
        needed = lowest_version(self.records, self.metadata)
        if version < needed:
            raise HempFileError(None, 4, f"format version {needed}", f"version {version}")
        self._sections_start = _START + size
        end = self._sections_start + sum(n + _CHECKSUM.size for n in self._section_sizes)
        if end != self.size:
            raise HempFileError(
                None, min(end, self.size), f"a file of {end} bytes", f"{self.size} bytes"
            )


@contextmanager
def opened(path: str | os.PathLike[str], max_bytes: int | None = None) -> Iterator[HempFile]:
    """Open a `.hemp` file; every `HempFileError` inside tells its path.

    Raises:
        HempFileError: As `HempFile`.
        OSError: If it cannot be read.
    """
    with located(0, os.fspath(path)), open(path, "rb") as file:
        yield HempFile(file, max_bytes)


def default_max_bytes(file_bytes: int) -> int:
    """What tensors of a file may take in memory unless told otherwise: 256 MiB + 4096 times it.

    Example:
        >>> default_max_bytes(1_000) // 2**20
        259
    """
    return 2**28 + 4096 * file_bytes


def write_file(
    out: IO[bytes],
    records: list[Record],
    section_sizes: list[int],
    sections: IO[bytes],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write header and directory, then the sections, which have their checksums already."""
    directory = write_directory(records, section_sizes, metadata)
    deflated = deflate(directory)
    stored = directory if deflated is None else deflated
    if len(directory) > MAX_DIRECTORY:
        raise ValueError(f"a directory has at most {MAX_DIRECTORY} bytes; found {len(directory)}")
    version = lowest_version(records, metadata or {})
    header = _HEADER.pack(MAGIC, version, 0 if deflated is None else _DEFLATED, len(stored))
    out.write(header + _CHECKSUM.pack(zlib.crc32(stored, zlib.crc32(header))) + stored)
    sections.seek(0)
    while chunk := sections.read(2**20):
        out.write(chunk)


def checksum_of(section: bytes) -> bytes:
    """What follows a section in the file."""
    return _CHECKSUM.pack(zlib.crc32(section))


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file may be written.

    Raises:
        IsADirectoryError: If it is a folder.
        FileExistsError: If it is a device, a pipe, or something else that is no regular file. A
            link is followed.

    Example:
        >>> check_target("/dev/null")
        Traceback (most recent call last):
        FileExistsError: `path` must be a regular file or a new one; found /dev/null, ...
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"`path` must be a file; found the folder {os.fspath(path)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileExistsError(
            f"`path` must be a regular file or a new one; found {os.fspath(path)}, a device or pipe"
        )


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, if nothing went wrong.

    Whatever happens, `path` is the old file or the new one, whole and on the disk.

    Raises:
        FileNotFoundError: If the folder does not exist.
        IsADirectoryError, FileExistsError: As `check_target`.
    """
    check_target(path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"`path` must lie in a folder that exists; found {os.fspath(path)}")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.open("xb").close()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # whoever wrote it may have put another file in its place
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
