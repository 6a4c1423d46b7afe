"""The directory: what tensors a file holds, in the order of the state_dict, and where."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hemp_reader.bitstream import ByteReader, varint
from hemp_reader.errors import HempFileError, located
from hemp_reader.format.metadata import read_metadata, write_metadata
from hemp_reader.format.names import expand, read_name, shorten, write_name
from hemp_reader.format.storages import (
    EXACT,
    FLOAT32,
    HALF,
    QUANTIZABLE,
    STEPS,
    STORAGES,
    Storage,
)
from hemp_reader.limits import MAX_LEVELS
from hemp_reader.transforms import TRANSFORMS, is_transformable

QUANTIZED, PLAIN, ALIAS = 0, 1, 2
_TRANSFORMED = 3  # the kind that a file gives to quantized tensors with a transform

MAX_DIRECTORY = 2**26
"""The most bytes of a directory, inflated."""

MAX_INFLATION = 32
"""A deflated directory is at most so many times smaller than the directory itself."""

MAX_RECORDS = 2**17
"""The most tensors of a file."""

MAX_NAMES = 2**24
"""The most bytes of all names together."""

MAX_NDIM = 32
"""The most axes of a tensor, as many as every NumPy has."""

MAX_ENTRIES = 2**36 - 1
"""The most entries of a tensor; empty axes count as if they had one."""

WHOLE, IN_PLACE, IN_ORDER, FOLDED = range(4)
"""What a tensor of an update is: the tensor itself; differences of its indices, where they stand or
in the order of what was expected; differences of its words."""

DIGEST_BYTES = 32

_LAST_CODER = 5  # of version 1
_CODER_OF_3 = 7  # the only one that version 3 adds
_HAS_STORAGE, _OPENS_SECTION, _WIDE_LEVELS = 1 << 5, 1 << 6, 1 << 7


@dataclass(frozen=True)
class Record:
    """A tensor in the directory.

    Attributes:
        name: Its key in the state_dict.
        kind: `QUANTIZED`, `PLAIN` or `ALIAS`.
        shape: Its shape; of an alias that of its target.
        storage: How entries are held; of a quantized tensor it only tells the dtype.
        section: Number of the section that holds it; of an alias that of its target.
        num_levels: Of a quantized tensor, at least 1; else 0.
        wide_levels: Whether levels are float32 and not 16 bits each.
        coder: Number of the coder of the indices.
        size: Bytes of the payload of the indices.
        target: Position in the directory of the tensor that an alias repeats.
        transform: What was done to the kernels before they were quantized, one of `TRANSFORMS`.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    storage: Storage
    section: int
    num_levels: int = 0
    wide_levels: bool = False
    coder: int = 0
    size: int = 0
    target: int = 0
    transform: str = TRANSFORMS[0]

    @property
    def version(self) -> int:
        """The first version of the format that has such a record."""
        if self.transform != TRANSFORMS[0] or self.coder == _CODER_OF_3:
            return 3
        new = self.kind != ALIAS and (self.storage == STEPS or self.coder > _LAST_CODER)
        return 2 if new else 1

    @property
    def num_entries(self) -> int:
        """Number of entries of the tensor."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes that the tensor takes in memory."""
        return self.num_entries * self.storage.itemsize


@dataclass(frozen=True)
class Update:
    """What makes a file an update of another one, the base.

    Attributes:
        digest: Of what the base holds, see `hemp_reader.updates.digest_of`.
        relations: Of each record, `WHOLE` or another one.
        offset: Where this stands in the file.
    """

    digest: bytes
    relations: tuple[int, ...]
    offset: int = 0


def lowest_version(
    records: list[Record], metadata: Mapping[str, str], update: Update | None = None
) -> int:
    """The lowest version that has all of a directory, which is the one that a writer says."""
    if update is not None:
        return 4
    return max([record.version for record in records] + ([3] if metadata else [1]))


def write_directory(
    records: list[Record],
    section_sizes: list[int],
    metadata: Mapping[str, str] | None = None,
    update: Update | None = None,
) -> bytes:
    """The directory as a file of its `lowest_version` holds it, not deflated.

    Args:
        records: One for each tensor.
        section_sizes: Bytes of each section.
        metadata: What is said of the file beside its tensors; it has passed `check_metadata`.
        update: What makes it an update.

    Example:
        >>> record = Record("fc.bias", PLAIN, (10,), HALF, section=0)
        >>> write_directory([record], [21]).hex()
        '01020f02450a15'
    """
    parts = [varint(len(records))]
    previous, opened = b"", -1
    for record in records:
        short = shorten(record.name)
        parts.append(write_name(short, previous))
        previous = short
        if record.kind == ALIAS:
            parts += [bytes([ALIAS]), varint(record.target)]
            continue
        number = TRANSFORMS.index(record.transform)
        tag = (_TRANSFORMED if number else record.kind) | min(len(record.shape), 7) << 2
        usual = _usual_storage(record.kind)
        tag |= _HAS_STORAGE if record.storage != usual else 0
        tag |= _OPENS_SECTION if record.section > opened else 0
        tag |= _WIDE_LEVELS if record.wide_levels else 0
        opened = record.section
        parts.append(bytes([tag]))
        if record.storage != usual:
            parts.append(bytes([record.storage.number]))
        if len(record.shape) >= 7:
            parts.append(varint(len(record.shape) - 7))
        parts += [varint(extent) for extent in record.shape]
        if record.kind == QUANTIZED:
            parts.append(bytes([number]) if number else b"")
            parts.append(varint(record.num_levels))
            if record.num_levels > 1:
                parts += [bytes([record.coder]), varint(record.size)]
    parts += [varint(size) for size in section_sizes]
    if lowest_version(records, metadata or {}, update) >= 3:
        parts.append(write_metadata(metadata or {}))
    if update is not None:
        parts += [b"\1", update.digest, bytes(update.relations)]
    return b"".join(parts)


def read_directory(
    data: bytes, version: int
) -> tuple[list[Record], list[int], dict[str, str], Update | None]:
    """Records, the sizes of the sections, the metadata, and what makes it an update.

    Args:
        data: The directory, not deflated.
        version: The version that the file says.

    Raises:
        HempFileError: If `data` is no directory; its offset counts from the start of `data`.
    """
    reader = ByteReader(data)
    count = reader.varint("number of tensors", min(MAX_RECORDS, len(data)))
    records: list[Record] = []
    names: set[str] = set()
    previous, section, left = b"", -1, MAX_NAMES
    for _ in range(count):
        start = reader.offset
        previous = read_name(reader, previous)
        with located(start):
            name = expand(previous)
        left -= len(previous) + len(name)
        if name in names or left < 0:
            expected = "a new name" if name in names else f"names of {MAX_NAMES} bytes in all"
            raise HempFileError(None, start, expected, repr(name[:64]) if name in names else "more")
        names.add(name)
        record = _read_record(reader, name, section, records)
        section = max(section, record.section)
        records.append(record)
    sizes = [reader.varint("size of a section") for _ in range(section + 1)]
    metadata = read_metadata(reader) if version >= 3 else {}
    update = _read_update(reader, len(records)) if version >= 4 else None
    reader.end("the directory")
    return records, sizes, metadata, update


def _read_update(reader: ByteReader, count: int) -> Update | None:
    start = reader.offset
    has_base = reader.byte("whether there is a base")
    if has_base > 1:
        raise HempFileError(None, start, "0 or 1 for a base", str(has_base))
    if not has_base:
        return None
    digest = bytes(reader.take(DIGEST_BYTES, "a digest"))
    relations = tuple(reader.take(count, "relations to the base"))
    if max(relations, default=WHOLE) > FOLDED:
        raise HempFileError(None, start, f"relations up to {FOLDED}", str(max(relations)))
    return Update(digest, relations, start)


def deflate(directory: bytes) -> bytes | None:
    """The directory deflated, after its plain size; None if that would not be smaller."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = varint(len(directory)) + compressor.compress(directory) + compressor.flush()
    if not len(deflated) < len(directory) <= MAX_INFLATION * len(deflated):
        return None
    return deflated


def inflate(data: bytes) -> bytes:
    """The directory that `deflate` made small.

    Raises:
        HempFileError: If there is none, or it is larger than the format allows.
    """
    reader = ByteReader(data)
    size = reader.varint("size of the directory", min(MAX_DIRECTORY, MAX_INFLATION * len(data)))
    start = reader.offset
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        directory = decompressor.decompress(reader.rest(), size + 1)
    except zlib.error as error:
        raise HempFileError(None, start, "a deflated directory", str(error)) from None
    if len(directory) != size or not decompressor.eof or decompressor.unused_data:
        raise HempFileError(None, start, f"a deflated directory of {size} bytes", "another")
    return directory


def _usual_storage(kind: int) -> Storage:
    return FLOAT32 if kind == QUANTIZED else HALF


def _read_record(reader: ByteReader, name: str, section: int, before: list[Record]) -> Record:
    """The rest of a record; `section` is the number of the one that is open."""
    start = reader.offset
    tag = reader.byte("a tag")
    kind = QUANTIZED if tag & 3 == _TRANSFORMED else tag & 3
    if kind == ALIAS and tag == ALIAS:
        target = reader.varint("position of an earlier tensor", MAX_RECORDS)
        if target >= len(before) or before[target].kind == ALIAS:
            raise HempFileError(None, start, "an alias of an earlier tensor", f"of number {target}")
        return replace(before[target], name=name, kind=ALIAS, target=target)
    if kind not in (QUANTIZED, PLAIN) or (kind == PLAIN and tag & _WIDE_LEVELS):
        raise HempFileError(None, start, "a tag of this version", f"{tag:#04x}")
    if tag & _OPENS_SECTION:
        section += 1
    if section < 0:
        raise HempFileError(None, start, "a first tensor that opens a section", f"{tag:#04x}")
    storage = _usual_storage(kind)
    if tag & _HAS_STORAGE:
        start = reader.offset
        number = reader.byte("a storage")
        if number not in STORAGES or STORAGES[number] == storage:
            raise HempFileError(None, start, "the number of another storage", str(number))
        storage = STORAGES[number]
    if kind == QUANTIZED and (storage.dtype not in QUANTIZABLE or storage != EXACT[storage.dtype]):
        raise HempFileError(None, start, "a floating dtype to quantize", storage.label)
    shape = _read_shape(reader, tag >> 2 & 7)
    if kind == PLAIN:
        return Record(name, kind, shape, storage, section)
    if 0 in shape:
        raise HempFileError(None, start, "a quantized tensor with an entry", f"shape {shape}")
    transform = TRANSFORMS[0]
    if tag & 3 == _TRANSFORMED:
        transform = _read_transform(reader, shape)
    num_levels = reader.varint("number of levels", min(MAX_LEVELS, math.prod(shape)))
    coder = size = 0
    if num_levels == 0:
        raise HempFileError(None, start, "at least one level", "0")
    if num_levels > 1:
        coder, size = reader.byte("number of a coder"), reader.varint("size of a payload")
    wide = bool(tag & _WIDE_LEVELS)
    return Record(
        name, kind, shape, storage, section, num_levels, wide, coder, size, transform=transform
    )


def _read_transform(reader: ByteReader, shape: tuple[int, ...]) -> str:
    start = reader.offset
    number = reader.byte("number of a transform")
    if not 0 < number < len(TRANSFORMS):
        raise HempFileError(None, start, "the number of a transform, 1", str(number))
    if not is_transformable(shape):
        raise HempFileError(None, start, "a tensor with kernels to transform", f"shape {shape}")
    return TRANSFORMS[number]


def _read_shape(reader: ByteReader, ndim: int) -> tuple[int, ...]:
    start = reader.offset
    if ndim == 7:
        ndim += reader.varint("number of axes", MAX_NDIM - 7)
    shape = tuple(reader.varint("an extent", MAX_ENTRIES) for _ in range(ndim))
    if math.prod(max(extent, 1) for extent in shape) > MAX_ENTRIES:
        raise HempFileError(None, start, f"at most {MAX_ENTRIES} entries", f"shape {shape}")
    return shape
