"""Reading a `.hemp` file: `load`, `inspect`, and `verify` that it is whole.

Reading runs no code from the file, and never allocates for what the file only claims; whatever is
broken in it is a `HempFileError`. FORMAT.md is the specification.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.errors import HempFileError, located
from hemp_reader.format.directory import QUANTIZED
from hemp_reader.format.files import HempFile, opened
from hemp_reader.format.sections import Content, read_section
from hemp_reader.parallel import count_threads, in_order
from hemp_reader.summary import (
    Summary,
    TensorSummary,
    indices_entropy,
    original,
    summarize,
    total,
)
from hemp_reader.updates import Base, updated_contents, updated_records

Source: TypeAlias = str | os.PathLike[str] | Bytes
"""A `.hemp` file, or the bytes of one."""


def load(
    path: Source,
    *,
    base: Source | None = None,
    max_bytes: int | None = None,
    threads: int | None = None,
    ml_dtypes: bool = False,
) -> dict[str, np.ndarray]:
    """Read a file: its tensors as arrays, quantized ones with the values of their levels.

    Args:
        path: A `.hemp` file, or the bytes of one.
        base: The file that it updates, if it is an update; else it is not used.
        max_bytes: The most bytes that the tensors may take; by default 256 MiB and 4096 times the
            size of the file. A file that declares more is refused before anything is allocated.
        threads: How many tensors are decoded at a time; None for one per processor at hand, at
            most 8.
        ml_dtypes: NumPy has no bfloat16 and no float8. They come as float32 arrays, of the same
            numbers in two or four times the memory; with True in the dtypes of the package
            `ml_dtypes`. A complex32 always comes as complex64.

    Returns:
        Arrays by key, in the order of the saved state_dict; keys of tied weights share one array.

    Raises:
        HempFileError: If the file is not a whole, valid `.hemp` file, is larger than allowed, or
            updates another file than `base`.
        OSError: If it cannot be read.
        ModuleNotFoundError: If `ml_dtypes` is wanted and not installed.
    """
    with open_file(path, max_bytes, base) as file:
        arrays = dict(
            in_order(
                lambda content: (content.record.name, content.array(ml_dtypes=ml_dtypes)),
                contents_of(file),
                count_threads(threads),
            )
        )
        return {record.name: arrays[original(file.records, record)] for record in file.records}


def inspect(
    path: Source,
    *,
    base: Source | None = None,
    order: int = 2,
    scan: str = "row_major",
    max_bytes: int | None = None,
    threads: int = 1,
) -> Summary:
    """What is in a file, without more memory than its largest section takes for each thread.

    Args:
        path: A `.hemp` file, or the bytes of one.
        base: See `load`.
        order: Length of the tuples of the entropies.
        scan: Scan order of the tuples.
        max_bytes: See `load`.
        threads: How many tensors are decoded at a time.

    Raises:
        HempFileError: As `load`.
        ValueError: If `order` or `scan` is out of range.
    """

    def look(content: Content) -> TensorSummary:
        if content.record.kind != QUANTIZED:
            return summarize(content)
        # the indices are gone before their coder decodes them again, to see what its model takes
        return summarize(content, indices_entropy(content, content.indices(), order, scan))

    with open_file(path, max_bytes, base) as file:
        contents = contents_of(file, keeps_entries=False)
        found = in_order(look, contents, count_threads(threads))
        summaries = {summary.name: summary for summary in found}
        name = "" if isinstance(path, (bytes, bytearray)) else path
        return total(name, file.size, file.records, summaries, metadata=file.metadata)


def verify(
    path: Source,
    *,
    base: Source | None = None,
    max_bytes: int | None = None,
    threads: int = 1,
) -> None:
    """Check a whole file: checksums, and that every tensor decodes.

    Args:
        path: A `.hemp` file, or the bytes of one.
        base: See `load`.
        max_bytes: See `load`.
        threads: How many tensors are decoded at a time.

    Raises:
        HempFileError: As `load`.
    """

    def check(content: Content) -> None:
        if content.record.kind == QUANTIZED:  # others are decoded with their section
            content.indices()

    with open_file(path, max_bytes, base) as file:
        for _ in in_order(check, contents_of(file, keeps_entries=False), count_threads(threads)):
            pass


@contextmanager
def open_file(
    path: Source, max_bytes: int | None = None, base: Source | None = None
) -> Iterator[HempFile]:
    """Open a file, an update with its base; see `load`.

    Raises:
        HempFileError: As `load`, for what stands outside of the sections.
    """
    held = None if base is None else _read_base(base, max_bytes)
    with opened(path, max_bytes) as file:
        if file.update is not None:
            if held is None:
                raise HempFileError(
                    None,
                    file.update.offset,
                    f"as `base` the file with the content {file.update.digest.hex()[:16]}..., "
                    "which this one updates",
                    "no base",
                )
            file.stand_for(updated_records(file.own_records, file.update, held))
            file.base = held
        yield file


def _read_base(path: Source, max_bytes: int | None) -> Base:
    with opened(path, max_bytes) as file:
        if file.update is not None:
            raise HempFileError(None, file.update.offset, "as `base` a whole file", "an update")
        return Base.of(file.records, contents_of(file))


def contents_of(file: HempFile, *, keeps_entries: bool = True) -> Iterator[Content]:
    """Contents of an open file, one section at a time, and of its base; see `read_section`."""
    contents = _own_contents(file, keeps_entries)
    if file.update is None:
        return contents
    assert file.base is not None
    return updated_contents(contents, file.update, file.base)


def _own_contents(file: HempFile, keeps_entries: bool) -> Iterator[Content]:
    for start, data, records in file.sections():
        with located(start):
            contents = read_section(data, records, keeps_entries=keeps_entries)
        del data
        contents.reverse()
        while contents:  # what was taken is nobody else's, and can be freed
            content = contents.pop()
            yield replace(content, offset=start + content.offset)
            del content
