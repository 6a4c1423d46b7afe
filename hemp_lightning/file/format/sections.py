"""Sections, written as `hemp_reader.format.sections` reads them, and tensors of what was read."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hemp_lightning.file.format.blocks import write_block
from hemp_lightning.file.format.steps import write_steps
from hemp_lightning.file.format.storages import tensor_of
from hemp_reader.format.directory import PLAIN, QUANTIZED
from hemp_reader.format.levels import write_levels
from hemp_reader.format.sections import Content, storages_of
from hemp_reader.format.storages import STEPS


def write_section(contents: list[Content]) -> bytes:
    """The bytes of a section, without its checksum."""
    quantized = [c for c in contents if c.record.kind == QUANTIZED]
    plain = [c for c in contents if c.record.kind == PLAIN]
    narrow = [c.values for c in quantized if not c.record.wide_levels]
    wide = [c.values for c in quantized if c.record.wide_levels]
    parts = [write_levels(narrow, wide), *(c.payload for c in quantized)]
    for storage in storages_of([c.record for c in plain]):
        words = [c.values for c in plain if c.record.storage == storage and len(c.values)]
        if storage == STEPS:
            parts.append(write_steps(words))
        else:
            parts.append(write_block(np.concatenate(words), storage))
    return b"".join(parts)


def tensor_in(content: Content) -> Tensor:
    """The tensor of a content of a file.

    Raises:
        HempFileError: If its payload is broken.
    """
    record = content.record
    return tensor_of(content.words(), record.storage.dtype, record.shape)
