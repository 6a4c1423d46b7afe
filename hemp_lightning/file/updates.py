"""Updates: what differs between two files, as a small file; and back to a whole one."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO

import numpy as np

from hemp_lightning.file.encode import shortest_payload
from hemp_lightning.file.format.blocks import write_block
from hemp_lightning.file.format.files import checksum_of, write_file
from hemp_lightning.file.format.sections import write_section
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.write import runs
from hemp_reader.format.directory import (
    ALIAS,
    FOLDED,
    IN_ORDER,
    IN_PLACE,
    PLAIN,
    QUANTIZED,
    WHOLE,
    Record,
    Update,
)
from hemp_reader.format.sections import Content
from hemp_reader.reading import contents_of, open_file
from hemp_reader.replacing import replacing
from hemp_reader.updates import Base, Difference, expected_indices, folded, folded_storage

_OPTIONS = FileOptions()  # the coder of differences
_ANY = 2**62  # bytes: what was just written is no danger


def become_update(path: str | os.PathLike[str], base: str | os.PathLike[str]) -> bool:
    """Put in the place of a file the update of another one to it, if that is smaller.

    Args:
        path: A whole file, which is replaced.
        base: Another whole file. An update needs the same names in the same order.

    Returns:
        Whether it was replaced.

    Raises:
        HempFileError: If a file is broken.
        RuntimeError: If the update reads back differently.
    """
    before, (now, metadata) = read_whole(base)[0], read_whole(path, max_bytes=_ANY)
    update = _update_between(before, now, metadata)
    if update is None or len(update) >= os.path.getsize(path):
        return False
    with replacing(path) as temporary:
        temporary.write_bytes(update)
        _check(temporary, now, base)
    return True


def apply(
    base: str | os.PathLike[str], update: str | os.PathLike[str], output: str | os.PathLike[str]
) -> int:
    """Write the whole file that an update makes of its base, all or nothing.

    Args:
        base: The file that the update was made for, or another one of the same content.
        update: The update.
        output: The file to write; it may be the base.

    Returns:
        Its bytes.

    Raises:
        HempFileError: If a file is broken, or the base is another one.
        OSError: If a file cannot be read or written.
    """
    now, metadata = read_whole(update, base)
    contents = {name: _by_itself(content) for name, content in now.contents.items()}
    with replacing(output) as temporary:
        with temporary.open("wb") as file:
            records, sizes, sections = _coded(
                [_own(record, contents) for record in now.records], contents
            )
            write_file(file, records, sizes, sections, metadata)
        _check(temporary, now, None)
        return temporary.stat().st_size


def read_whole(
    path: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    max_bytes: int | None = None,
) -> tuple[Base, dict[str, str]]:
    """What a file holds, and its metadata; of an update what it makes of `base`.

    Raises:
        HempFileError: If a file is broken, or the base is another one.
    """
    with open_file(path, max_bytes, base) as file:
        return Base.of(file.records, contents_of(file)), file.metadata


def _check(path: os.PathLike[str], wanted: Base, base: str | os.PathLike[str] | None) -> None:
    if read_whole(path, base, _ANY)[0].digest != wanted.digest:
        raise RuntimeError(
            "the update reads back differently from what was written; no file is written. This is "
            "a defect of hemp_lightning: please report it"
        )


def _update_between(before: Base, now: Base, metadata: Mapping[str, str]) -> bytes | None:
    """The update from one file to another; None if their names are not the same."""
    if [_place(record) for record in before.records] != [_place(record) for record in now.records]:
        return None
    found: dict[str, tuple[Content, int]] = {}
    for name, content in now.contents.items():
        if not _same(before.contents[name], content):
            found[name] = _smallest(before.contents[name], content)
    contents = {name: content for name, (content, _) in found.items()}
    records, sizes, sections = _coded([content.record for content in contents.values()], contents)
    update = Update(before.digest, tuple(relation for _, relation in found.values()))
    out = io.BytesIO()
    write_file(out, records, sizes, sections, metadata, update)
    return out.getvalue()


def _place(record: Record) -> tuple[str, int]:
    """What must be the same in both files: the name, and what an alias repeats."""
    return record.name, record.target if record.kind == ALIAS else -1


def _same(before: Content, now: Content) -> bool:
    """Whether a tensor has not changed, nor how it is held."""
    then, record = (replace(c.record, section=0, coder=0, size=0) for c in (before, now))
    if then != record:
        return False
    if before.values.tobytes() != now.values.tobytes():
        return False
    return now.record.kind == PLAIN or np.array_equal(before.indices(), now.indices())


def _smallest(before: Content, now: Content) -> tuple[Content, int]:
    """The tensor, or its differences to what it was, in the fewest bytes; and which it is."""
    record, then = now.record, before.record
    choices = [(now, WHOLE)]
    if record.kind == then.kind == QUANTIZED and record.num_levels > 1:
        kinds = [(r.storage, r.shape, r.transform) for r in (record, then)]
        if kinds[0] == kinds[1]:
            levels = record.num_levels
            expected = expected_indices(before, now.values)
            differences = now.indices().reshape(-1).astype(np.int64) - expected + levels // 2
            differences %= levels
            order = np.argsort(expected, kind="stable")
            for relation, indices in (
                (IN_PLACE, differences.reshape(record.shape)),
                (IN_ORDER, differences[order]),
            ):
                payload, coder = shortest_payload(indices, levels, _OPTIONS)
                coded = replace(record, coder=coder, size=len(payload))
                choices.append((Content(coded, now.values, payload), relation))
        return min(choices, key=lambda choice: len(choice[0].payload))
    storage = folded_storage(record) if record.kind == then.kind == PLAIN else None
    if storage is None or record.storage != then.storage or record.shape != then.shape:
        return choices[0]
    words = folded(now.values, before.values)
    if len(write_block(words, storage)) >= len(write_block(now.values, record.storage)):
        return choices[0]
    return Content(replace(record, storage=storage), words), FOLDED


def _by_itself(content: Content) -> Content:
    """The same without a base."""
    if not isinstance(content, Difference):
        return content
    record = content.record
    payload, coder = shortest_payload(content.indices(), record.num_levels, _OPTIONS)
    return Content(replace(record, coder=coder, size=len(payload)), content.values, payload)


def _own(record: Record, contents: Mapping[str, Content]) -> Record:
    return record if record.kind == ALIAS else contents[record.name].record


def _coded(
    records: Sequence[Record], contents: Mapping[str, Content]
) -> tuple[list[Record], list[int], IO[bytes]]:
    """The records with their sections, the sizes of these, and their bytes with checksums."""
    own = [position for position, record in enumerate(records) if record.kind != ALIAS]
    found, out = list(records), io.BytesIO()
    sizes: list[int] = []
    for section in runs([(position, records[position].num_bytes) for position in own]):
        held = []
        for position in section:
            found[position] = replace(records[position], section=len(sizes))
            held.append(replace(contents[found[position].name], record=found[position]))
        data = write_section(held)
        out.write(data + checksum_of(data))
        sizes.append(len(data))
    for position, record in enumerate(found):
        if record.kind == ALIAS:
            target = found[record.target]
            found[position] = replace(target, name=record.name, kind=ALIAS, target=record.target)
    return found, sizes, out
