"""Updates: files that say of some tensors how they differ from those of another file, the base."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from hemp_reader.bitstream import varint
from hemp_reader.coding.indices import gather, index_dtype
from hemp_reader.errors import HempFileError
from hemp_reader.format.directory import (
    ALIAS,
    FOLDED,
    IN_ORDER,
    PLAIN,
    QUANTIZED,
    WHOLE,
    Record,
    Update,
)
from hemp_reader.format.sections import Content
from hemp_reader.format.storages import EXACT, STEPS, Storage
from hemp_reader.transforms import TRANSFORMS


@dataclass(frozen=True)
class Base:
    """A file that an update changes, held in memory with its indices coded.

    Attributes:
        records: Its directory.
        contents: What it holds of each tensor that is no alias, by name.
        digest: Of what it holds, see `digest_of`.
    """

    records: list[Record]
    contents: dict[str, Content]
    digest: bytes

    @classmethod
    def of(cls, records: list[Record], contents: Iterable[Content]) -> Base:
        """The base with this directory and these contents.

        Raises:
            HempFileError: If a payload is broken.
        """
        held = {content.record.name: content for content in contents}
        return cls(records, held, digest_of(records, held))


def digest_of(records: list[Record], contents: dict[str, Content]) -> bytes:
    """SHA-256 of what a file holds, however its indices are coded and its bytes lie.

    Raises:
        HempFileError: If a payload is broken.
    """
    digest = hashlib.sha256()
    for record in records:
        name = record.name.encode()
        digest.update(varint(len(name)) + name + bytes([record.kind]))
        if record.kind == ALIAS:
            digest.update(varint(record.target))
            continue
        numbers = [len(record.shape), *record.shape]
        digest.update(bytes([record.storage.number]) + b"".join(map(varint, numbers)))
        content = contents[record.name]
        if record.kind == QUANTIZED:
            number = TRANSFORMS.index(record.transform)
            digest.update(bytes([number]) + varint(record.num_levels))
            digest.update(content.values.astype("<f4").tobytes())
            words = np.ascontiguousarray(content.indices())
        else:
            words = content.values if record.num_entries else np.empty(0, np.uint8)
        digest.update(words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.digest()


def updated_records(records: list[Record], update: Update, base: Base) -> list[Record]:
    """The directory of the file that an update makes of its base.

    Args:
        records: Those of the update.
        update: What it says of them and of the base.
        base: Another file, which may be a wrong one.

    Raises:
        HempFileError: If it is, or a record does not fit that of the base.
    """
    if base.digest != update.digest:
        raise HempFileError(
            None,
            update.offset,
            f"as `base` the file with the content {update.digest.hex()[:16]}...",
            f"one with the content {base.digest.hex()[:16]}...",
        )
    changed = {}
    for record, relation in zip(records, update.relations, strict=True):
        before = base.contents.get(record.name)
        if before is None or record.kind == ALIAS:
            raise HempFileError(
                None, update.offset, "the name of a tensor of the base", repr(record.name[:64])
            )
        if relation != WHOLE:
            _check_fits(record, relation, before.record, update.offset)
        if relation == FOLDED:
            record = replace(before.record, section=record.section)
        changed[record.name] = record
    found: list[Record] = []
    for record in base.records:
        if record.kind == ALIAS:
            target = found[record.target]
            record = replace(target, name=record.name, kind=ALIAS, target=record.target)
        found.append(changed.get(record.name, record))
    return found


def _check_fits(record: Record, relation: int, before: Record, offset: int) -> None:
    if relation == FOLDED:
        wanted = folded_storage(before) if before.kind == PLAIN else None
        fits = record.kind == PLAIN and record.storage == wanted
    else:
        fits = record.kind == before.kind == QUANTIZED and (
            (record.storage, record.transform) == (before.storage, before.transform)
        )
    if not fits or record.shape != before.shape:
        raise HempFileError(
            None, offset, f"differences to `{before.name[:64]}` of the base", "those to another"
        )


def folded_storage(record: Record) -> Storage | None:
    """How differences of the words of a plain tensor are stored; None if there are none.

    Example:
        >>> from hemp_reader.format.storages import HALF
        >>> folded_storage(Record("bias", PLAIN, (10,), HALF, section=0)).dtype
        'uint16'
    """
    storage = record.storage
    if storage == STEPS or storage.num_words != 1 or storage.dtype == "bool":
        return None
    return EXACT[f"uint{8 * storage.word}"]


def updated_contents(contents: Iterable[Content], update: Update, base: Base) -> Iterator[Content]:
    """Contents of the file that an update makes, those of unchanged tensors last.

    Args:
        contents: Those of the update, in the order of its records.
        update: What it says of them.
        base: Its base.
    """
    seen = set()
    for content, relation in zip(contents, update.relations, strict=True):
        seen.add(content.record.name)
        before = base.contents[content.record.name]
        if relation == FOLDED:
            values = content.values
            if values.size == before.values.size:  # else they were not kept
                values = unfolded(values, before.values)
            yield replace(content, record=before.record, values=values)
        elif relation == WHOLE:
            yield content
        else:
            yield Difference(**vars(content), before=before, in_order=relation == IN_ORDER)
    for name, content in base.contents.items():
        if name not in seen:
            yield replace(content, size=0)


@dataclass(frozen=True)
class Difference(Content):
    """What an update holds of a quantized tensor: differences to the indices of the base.

    Attributes:
        before: The tensor in the base.
        in_order: Whether they come in the order of what was expected.
    """

    before: Content | None = None
    in_order: bool = False

    def indices(self) -> np.ndarray:
        """Decoded indices of the tensor, in its shape.

        Raises:
            HempFileError: If the payload is broken.
        """
        assert self.before is not None
        record, flat = self.record, self.record
        if self.in_order:
            flat = replace(record, shape=(record.num_entries,))
        differences = replace(self._plainly(), record=flat).indices().reshape(-1)
        expected = expected_indices(self.before, self.values)
        if self.in_order:
            unsorted = np.empty_like(differences)
            unsorted[np.argsort(expected, kind="stable")] = differences
            differences = unsorted
        levels = record.num_levels
        found = (differences.astype(np.int64) + expected + (levels - levels // 2)) % levels
        return found.astype(index_dtype(levels)).reshape(record.shape)

    def _plainly(self) -> Content:
        return Content(self.record, self.values, self.payload, self.size, self.offset)


def expected_indices(before: Content, levels: np.ndarray) -> np.ndarray:
    """Indices of the levels nearest to those that a tensor had, flat, of the dtype of indices.

    Args:
        before: The tensor in the base.
        levels: The new ones, float32; of two that are as near the lower one counts.
    """
    old, new = before.values.astype(np.float64), levels.astype(np.float64)
    upper = np.clip(np.searchsorted(new, old), 1, max(len(new) - 1, 1))
    lower = upper - 1
    upper = np.minimum(upper, len(new) - 1)
    nearest = np.where(new[upper] - old < old - new[lower], upper, lower)
    return gather(nearest.astype(index_dtype(len(new))), before.indices().reshape(-1))


def folded(words: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Differences of words, as unsigned words: small where they are small, whatever their sign.

    Example:
        >>> now, before = np.array([7, 6, 255], np.uint8), np.array([7, 7, 0], np.uint8)
        >>> folded(now, before), unfolded(folded(now, before), before)
        (array([0, 1, 1], dtype=uint8), array([  7,   6, 255], dtype=uint8))
    """
    signed = (words - before).view(f"i{words.itemsize}")
    return ((signed << 1) ^ (signed >> (8 * words.itemsize - 1))).view(words.dtype)


def unfolded(differences: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The words whose differences `folded` gave."""
    halves = differences >> 1
    return before + np.where(differences & 1, ~halves, halves)
