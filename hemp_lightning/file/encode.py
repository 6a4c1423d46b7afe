"""From a tensor to what a section holds of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.coding import CODERS, get_coder
from hemp_lightning.coding.coder import Coder, gather, index_dtype, tally
from hemp_lightning.coding.compressors import RawCoder
from hemp_lightning.coding.tuples.coder import TuplesCoder
from hemp_lightning.file.format.directory import PLAIN, QUANTIZED, Record
from hemp_lightning.file.format.levels import needs_wide
from hemp_lightning.file.format.sections import Content
from hemp_lightning.file.format.steps import round_to_steps
from hemp_lightning.file.format.storages import EXACT, FLOAT_DTYPES, STEPS, fits, to_words
from hemp_lightning.file.tolerances import Norms
from hemp_lightning.quantization.codebook import Codebook

_CHUNK = 2**22  # weights that are assigned to levels at a time


@dataclass(frozen=True)
class Options:
    """How tensors are coded; see `hemp_lightning.save`."""

    coder: str
    order: int
    scan: str
    float_dtype: str

    def __post_init__(self) -> None:
        if self.float_dtype not in FLOAT_DTYPES:
            raise ValueError(
                f"`float_dtype` must be one of {', '.join(FLOAT_DTYPES)}; "
                f"found {self.float_dtype!r}"
            )
        self.coders()

    def coders(self) -> tuple[Coder, list[TuplesCoder | RawCoder]]:
        """The coder to use, and those to try beside it.

        Next to the context coder, which learns as it goes, a simpler one may win on a tensor: the
        tuples that the entropy term counted, or plain bits. Another coder is taken by its word.
        """
        if self.order < 1:
            raise ValueError(f"`order` must be at least 1; found {self.order}")
        tuples = TuplesCoder(order=self.order, scan=self.scan)
        if self.coder == "tuples":
            return tuples, []
        return get_coder(self.coder), [tuples, RawCoder()] if self.coder == "context" else []

    def encode(self, indices: np.ndarray, num_levels: int) -> tuple[bytes, int]:
        """The shortest payload of `coders`, and the number of its coder.

        A coder that cannot be shorter, by what it needs at least, is not run.
        """
        coder, simpler = self.coders()
        payload = coder.encode(indices, num_levels)
        for other in simpler:
            if other.least_bytes(indices, num_levels) < len(payload):
                coded = other.encode(indices, num_levels)
                if len(coded) < len(payload):
                    coder, payload = other, coded
        return payload, CODERS[coder.name].number


def encode_quantized(
    name: str, tensor: Tensor, codebook: Codebook, options: Options
) -> tuple[Content, np.ndarray]:
    """Content of a tensor (on the CPU) that is quantized, and its indices.

    Levels that no weight takes are left out.
    """
    indices = _assign(tensor, codebook)
    used = np.flatnonzero(tally(indices, codebook.num_levels))
    levels = codebook.levels.cpu().numpy()[used]
    if len(used) < codebook.num_levels:
        ranks = np.zeros(codebook.num_levels, index_dtype(len(used)))
        ranks[used] = np.arange(len(used))
        indices = gather(ranks, indices.reshape(-1)).reshape(indices.shape)
    coder, payload = 0, b""
    if len(used) > 1:
        payload, coder = options.encode(indices, len(used))
    record = Record(
        name,
        QUANTIZED,
        tuple(tensor.shape),
        EXACT[tensor.dtype],
        section=0,
        num_levels=len(used),
        wide_levels=needs_wide(levels),
        coder=coder,
        size=len(payload),
    )
    return Content(record, levels, payload), indices


def encode_plain(name: str, tensor: Tensor, options: Options, norms: Norms) -> Content:
    """Content of a tensor (on the CPU) that is stored as it is, or shorter within tolerance."""
    storage, limits = EXACT[tensor.dtype], None
    if options.float_dtype == "steps" and tensor.dtype == torch.float32 and tensor.ndim < 2:
        limits = norms.limits(name, tensor)
        rounded = round_to_steps(tensor, limits)
        if rounded is not None:
            record = Record(name, PLAIN, tuple(tensor.shape), STEPS, section=0)
            return Content(record, to_words(rounded, STEPS))
    shorter = FLOAT_DTYPES[options.float_dtype]
    if tensor.dtype == torch.float32 and fits(tensor, shorter, limits):
        storage = shorter
    record = Record(name, PLAIN, tuple(tensor.shape), storage, section=0)
    return Content(record, to_words(tensor, storage))


def _assign(tensor: Tensor, codebook: Codebook) -> np.ndarray:
    """Indices, in pieces: torch has them in eight bytes each, which a large tensor cannot spare."""
    flat = tensor.reshape(-1)
    indices = np.empty(flat.numel(), index_dtype(codebook.num_levels))
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        indices[start : start + _CHUNK] = codebook.assign(part).numpy()
    return indices.reshape(tuple(tensor.shape))
