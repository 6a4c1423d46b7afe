"""From a plan to bytes: sections are coded, read back, compared, and written."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import IO

import numpy as np

from hemp_lightning.file.choose import Plan
from hemp_lightning.file.encode import encode_entry
from hemp_lightning.file.format.files import checksum_of, write_file
from hemp_lightning.file.format.sections import write_section
from hemp_lightning.file.state import Entry
from hemp_lightning.file.tolerances import Norms
from hemp_reader.format.directory import ALIAS, Record
from hemp_reader.format.files import opened
from hemp_reader.format.sections import SECTION_BYTES, Content, read_section
from hemp_reader.parallel import in_order
from hemp_reader.summary import TensorSummary


def encode_sections(
    plan: Plan, out: IO[bytes] | None, threads: int, checks: bool = True
) -> tuple[list[Record], list[int], dict[str, TensorSummary]]:
    """Code all tensors, one at a time by each thread.

    Args:
        plan: What is written.
        out: Takes the sections with their checksums; None to throw them away.
        threads: How many tensors are coded at a time.
        checks: Decode each tensor and compare it with what was coded.

    Returns:
        The directory, the bytes of each section without its checksum, and a summary of each tensor
        that is no alias, by name.

    Raises:
        RuntimeError: If something reads back differently.
    """
    norms = Norms(plan.entries)
    records: dict[int, Record] = {}
    sizes: list[int] = []
    summaries: dict[str, TensorSummary] = {}
    own = [position for position, entry in enumerate(plan.entries) if entry.target is None]

    def code(position: int) -> tuple[Content, TensorSummary]:
        content, indices, summary = encode_entry(plan, position, norms)
        if checks and indices is not None:
            _check(np.array_equal(content.indices(), indices), summary.name)
        return content, summary

    with closing(in_order(code, own, threads)) as coded:
        for positions in runs((position, _num_bytes(plan.entries[position])) for position in own):
            contents = []
            for content, summary in islice(coded, len(positions)):
                contents.append(_in_section(content, len(sizes)))
                summaries[summary.name] = summary
            data = write_section(contents)
            for name, size in _read_back(data, contents).items():
                summaries[name] = replace(summaries[name], bytes=size)
            if out is not None:
                out.write(data)
                out.write(checksum_of(data))
            sizes.append(len(data))
            records.update(zip(positions, (c.record for c in contents), strict=True))
    for position, entry in enumerate(plan.entries):
        if entry.target is not None:
            target = records[entry.target]
            records[position] = replace(target, name=entry.name, kind=ALIAS, target=entry.target)
    return [records[position] for position in range(len(plan.entries))], sizes, summaries


def size_in_file(records: list[Record], sizes: list[int]) -> int:
    """Bytes of the file with this directory and sections of these sizes."""
    head = io.BytesIO()
    write_file(head, records, sizes, io.BytesIO())
    return head.tell() + sum(size + len(checksum_of(b"")) for size in sizes)


def check_written(
    path: str | os.PathLike[str], records: list[Record], metadata: dict[str, str]
) -> int:
    """Bytes of a file that was just written, after its checksums and directory were read back.

    Its sections were compared one by one before.

    Raises:
        RuntimeError: If the directory differs.
    """
    with opened(path, max_bytes=sum(record.num_bytes for record in records)) as written:
        if written.records != records or written.metadata != metadata:
            raise RuntimeError("the directory read back differs from the one written")
        for _ in written.sections():
            pass
        return written.size


def _read_back(data: bytes, contents: list[Content]) -> dict[str, int]:
    """Bytes of each tensor in a section, which must read back as it was written."""
    found = read_section(data, [content.record for content in contents])
    for wanted, content in zip(contents, found, strict=True):
        words = wanted.values.view(np.uint8), content.values.view(np.uint8)
        same = np.array_equal(*words) and wanted.payload == content.payload
        _check(same, wanted.record.name)
    return {content.record.name: content.size for content in found}


def runs(sizes: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
    """Positions of the tensors that share a section.

    Args:
        sizes: Position, and bytes in memory, of each tensor that is no alias.

    Example:
        >>> list(runs([(0, 2**21), (1, 2**21), (3, 1)]))
        [[0, 1], [3]]
    """
    section: list[int] = []
    size = 0
    for position, own in sizes:
        if section and size + own > SECTION_BYTES:
            yield section
            section, size = [], 0
        section.append(position)
        size += own
    if section:
        yield section


def _num_bytes(entry: Entry) -> int:
    return entry.tensor.numel() * entry.tensor.dtype.itemsize


def _in_section(content: Content, section: int) -> Content:
    return replace(content, record=replace(content.record, section=section))


def _check(same: bool, name: str) -> None:
    """Raise RuntimeError unless what was read back is what was to be written, bit for bit."""
    if not same:
        raise RuntimeError(
            f"tensor `{name}` reads back differently from what was written; "
            f"no file is written. This is a defect of hemp_lightning: please report it"
        )
