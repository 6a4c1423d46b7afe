"""What a file holds and what it takes: the float model, the entropy estimate, the real file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hemp_reader.coding import decoder_by_id
from hemp_reader.coding.tuples.counting import counted_entropy
from hemp_reader.format.directory import ALIAS, QUANTIZED, Record
from hemp_reader.format.sections import Content


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a file.

    Attributes:
        name: Its key in the state_dict.
        shape: Its shape.
        dtype: Its dtype, and the one that holds it if that is another: `float32 as float16`.
        coder: Coder of its indices; `plain`, `constant` (one level), or `alias of ...`.
        num_levels: Levels in use, 0 if it is not quantized.
        table_bytes: Bytes of `bytes` that describe the coder's model.
        bytes: Its bytes in the file: indices, levels or entries; not its line in the directory.
        entropy_bits_per_weight: Empirical entropy of its indices, 0 if it is not quantized.
        transform: What was done to its kernels before they were quantized, `none` or `dct`.
        relative_error: `||w - q|| / ||w||` of what the file holds in place of the tensor; None
            where a file was only read, which does not know the original.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    coder: str
    num_levels: int
    table_bytes: int
    bytes: int
    entropy_bits_per_weight: float
    transform: str = "none"
    relative_error: float | None = field(default=None, compare=False)

    @property
    def num_entries(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=object))


@dataclass(frozen=True)
class Summary:
    """A file and its sizes: the float model, the entropy estimate, the real file.

    Attributes:
        path: The file.
        float_bytes: Four bytes for each entry of parameters and buffers, shared ones once.
        file_bytes: Bytes of the file, all of it.
        compression_ratio: `float_bytes / file_bytes`.
        bits_per_weight: Bits of the file per entry of parameters and buffers.
        entropy_bits_per_weight: Empirical entropy of the indices, per quantized weight.
        encode_seconds: Time that `save` took; 0 where the file was only read.
        tensors: One summary a tensor, in the order of the state_dict.
        metadata: Strings by name that the file carries beside its tensors.
    """

    path: str
    float_bytes: int
    file_bytes: int
    compression_ratio: float
    bits_per_weight: float
    entropy_bits_per_weight: float
    encode_seconds: float
    tensors: list[TensorSummary]
    metadata: Mapping[str, str] = field(default_factory=dict)


def original(records: Sequence[Record], record: Record) -> str:
    """Name of the tensor that a record stands for: its own, or of an alias the other one's."""
    return records[record.target].name if record.kind == ALIAS else record.name


def summarize(content: Content, entropy: float = 0.0) -> TensorSummary:
    """Summary of one tensor.

    Args:
        content: The tensor as it stands in the file.
        entropy: Of its indices, bits per weight.
    """
    record = content.record
    coder, table_bytes = "plain", 0
    if record.kind == QUANTIZED:
        coder = "constant"
        if record.num_levels > 1:
            found = decoder_by_id(record.coder)
            coder = found.name
            table_bytes = found.table_bytes(content.payload, record.shape, record.num_levels)
    return TensorSummary(
        record.name,
        record.shape,
        record.storage.label,
        coder,
        record.num_levels,
        table_bytes,
        content.size,
        entropy,
        record.transform,
    )


def total(
    path: str | os.PathLike[str],
    file_bytes: int,
    records: Sequence[Record],
    summaries: Mapping[str, TensorSummary],
    encode_seconds: float = 0.0,
    metadata: Mapping[str, str] | None = None,
) -> Summary:
    """Summary of a file.

    Args:
        path: The file.
        file_bytes: Its size.
        records: Of all its tensors, in order.
        summaries: Summary of each tensor that is no alias, by name.
        encode_seconds: Time that writing it took.
        metadata: Its metadata.
    """
    tensors, entries, weights, bits = [], 0, 0, 0.0
    for record in records:
        summary = summaries[original(records, record)]
        if record.kind == ALIAS:
            alias = f"alias of {summary.name}"
            tensors.append(replace(summary, name=record.name, coder=alias, table_bytes=0, bytes=0))
            continue
        tensors.append(summary)
        entries += record.num_entries
        if record.kind == QUANTIZED:
            weights += record.num_entries
            bits += record.num_entries * summary.entropy_bits_per_weight
    return Summary(
        path=os.fspath(path),
        float_bytes=4 * entries,
        file_bytes=file_bytes,
        compression_ratio=4 * entries / file_bytes,
        bits_per_weight=8 * file_bytes / max(entries, 1),
        entropy_bits_per_weight=bits / max(weights, 1),
        encode_seconds=encode_seconds,
        tensors=tensors,
        metadata=dict(metadata or {}),
    )


def indices_entropy(content: Content, indices: np.ndarray, order: int, scan: str) -> float:
    """Empirical entropy of the indices of a tensor, bits per weight."""
    return counted_entropy(indices, content.record.num_levels, order, scan=scan)
