"""Sections: runs of tensors with one checksum; first all levels, then indices, then blocks.

Small tensors share a section: what they cost beyond their content is a few bytes in the directory.
A large one has a section of its own, so that nobody ever holds more than that in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hemp_reader.bitstream import ByteReader, Bytes, FileBytes
from hemp_reader.coding import decoder_by_id
from hemp_reader.coding.indices import gather, index_dtype
from hemp_reader.errors import HempFileError, located
from hemp_reader.format.blocks import read_block
from hemp_reader.format.directory import PLAIN, QUANTIZED, Record
from hemp_reader.format.levels import read_levels
from hemp_reader.format.steps import read_steps
from hemp_reader.format.storages import STEPS, Storage, array_of, narrowed, widened
from hemp_reader.transforms import MAX_LEVEL

SECTION_BYTES = 2**22
"""A section takes tensors up to so many bytes in memory, or a single larger one."""


@dataclass(frozen=True)
class Content:
    """What a section holds of one tensor.

    Attributes:
        record: Its record in the directory.
        values: Levels of a quantized tensor, float32 `(L,)`; entries of another, as `to_words`
            gives them.
        payload: Coded indices of a quantized tensor.
        size: Its bytes in the section, with its share of what is coded together.
        offset: Where the payload begins, from the start of the file if it was read from one.
    """

    record: Record
    values: np.ndarray
    payload: Bytes = b""
    size: int = 0
    offset: int = 0

    def indices(self) -> np.ndarray:
        """Decoded indices of a quantized tensor, in its shape.

        Raises:
            HempFileError: If the payload is broken.
        """
        record = self.record
        if record.num_levels == 1:
            return np.zeros(record.shape, index_dtype(1))
        with located(self.offset):
            coder = decoder_by_id(record.coder)
            return coder.decode(self.payload, record.shape, record.num_levels)

    def words(self) -> np.ndarray:
        """The entries as words of the tensor's dtype, flat, in memory of their own.

        Raises:
            HempFileError: If the payload is broken.
        """
        record = self.record
        if record.kind == PLAIN:
            return widened(self.values, record.storage)
        if record.transform == "none":
            return gather(narrowed(self.values, record.storage.dtype), self.indices().reshape(-1))
        from hemp_reader.cosines import to_weights  # and not before: it waits for numba

        coefficients = gather(self.values, self.indices().reshape(-1)).reshape(record.shape)
        return narrowed(to_weights(coefficients).reshape(-1), record.storage.dtype)

    def array(self, *, ml_dtypes: bool = False) -> np.ndarray:
        """The tensor, as `hemp_reader.load` gives it.

        Raises:
            HempFileError: If the payload is broken.
        """
        return array_of(
            self.words(), self.record.storage.dtype, self.record.shape, ml_dtypes=ml_dtypes
        )


def read_section(
    data: Bytes | FileBytes, records: list[Record], *, keeps_entries: bool = True
) -> list[Content]:
    """What a section holds of its tensors, in the order of the records; indices still coded.

    Args:
        data: The section, without its checksum.
        records: Those of its tensors.
        keeps_entries: If False, entries that are not quantized are decoded and, where there are
            many, dropped: `values` are then no tensor's.

    Raises:
        HempFileError: If `data` is no section with these; its offset counts from the start of it.
    """
    reader = ByteReader(data)
    contents = _read_quantized(reader, [r for r in records if r.kind == QUANTIZED])
    for storage in storages_of(records):
        same = (r for r in records if r.kind == PLAIN and r.storage == storage)
        group = [r for r in same if r.num_entries]
        start = reader.offset
        ends = np.cumsum([r.num_entries * storage.num_words for r in group])
        coded_ends = ends
        if storage == STEPS:
            words, bits = read_steps(reader, [r.num_entries for r in group])
            coded_ends = np.cumsum(bits)
        else:
            words = read_block(reader, int(ends[-1]), storage, keeps_words=keeps_entries)
        shares = _shares(reader.offset - start, coded_ends)
        for record, part, size in zip(group, np.split(words, ends[:-1]), shares, strict=True):
            contents[record.name] = Content(record, part, size=size)
    reader.end("the section")
    empty = np.empty(0, np.uint8)
    return [contents.get(r.name) or Content(r, empty) for r in records]


def _read_quantized(reader: ByteReader, records: list[Record]) -> dict[str, Content]:
    """Contents of the quantized tensors at the front of a section, by name."""
    start = reader.offset
    narrow, wide = read_levels(
        reader,
        [r.num_levels for r in records if not r.wide_levels],
        [r.num_levels for r in records if r.wide_levels],
    )
    next_narrow, next_wide = iter(narrow), iter(wide)
    ends = np.cumsum([r.num_levels * (2 if r.wide_levels else 1) for r in records])
    contents = {}
    for record, share in zip(records, _shares(reader.offset - start, ends), strict=True):
        levels = next(next_wide if record.wide_levels else next_narrow)
        if record.transform != "none" and not np.abs(levels).max() <= MAX_LEVEL:
            raise HempFileError(None, start, f"levels to transform up to {MAX_LEVEL:g}", "larger")
        offset = reader.offset
        payload = reader.take(record.size, "coded indices")
        size = share + len(payload)
        contents[record.name] = Content(record, levels, payload, size=size, offset=offset)
    return contents


def storages_of(records: list[Record]) -> list[Storage]:
    """Storages of the blocks, in the order in which plain entries first appear."""
    return list(dict.fromkeys(r.storage for r in records if r.kind == PLAIN and r.num_entries))


def _shares(size: int, ends: np.ndarray) -> list[int]:
    """`size` whole bytes, split like the differences of `ends`, whole numbers."""
    whole = [end * size // int(ends[-1]) for end in ends.tolist()]
    return [end - start for start, end in zip([0, *whole], whole, strict=False)]
