"""From a tensor to what a section holds of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.coding import CODERS, get_coder
from hemp_lightning.coding.compressors import RawCoder
from hemp_lightning.coding.context.frequency_coder import context_coder
from hemp_lightning.coding.tuples.coder import TuplesCoder
from hemp_lightning.file.cells import PRICED_CODERS, assign_priced
from hemp_lightning.file.choose import Plan
from hemp_lightning.file.format.sections import tensor_in
from hemp_lightning.file.format.steps import round_to_steps
from hemp_lightning.file.format.storages import DTYPES, EXACT, FLOAT_DTYPES, fits, has_nan, to_words
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.tolerances import Norms
from hemp_lightning.quantization.bounded import relative_error, squared_error
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer, UniformQuantizer
from hemp_lightning.quantization.transforms import asked_transform, best_transform
from hemp_reader.coding.indices import gather, index_dtype, tally
from hemp_reader.format.directory import PLAIN, QUANTIZED, Record
from hemp_reader.format.levels import needs_wide, write_levels
from hemp_reader.format.sections import Content
from hemp_reader.format.storages import STEPS
from hemp_reader.summary import TensorSummary, indices_entropy, summarize
from hemp_reader.transforms import MAX_KERNEL, MAX_LEVEL

_CHUNK = 2**22  # weights that are assigned to levels at a time


def encode_entry(
    plan: Plan, position: int, norms: Norms
) -> tuple[Content, np.ndarray | None, TensorSummary]:
    """Content of one tensor of a plan, its indices if it is quantized, and its summary.

    A tensor that is not finite is held exactly, since it is no weight: a mask of -inf, a buffer
    that is NaN until it is used.

    Raises:
        ValueError: If such a tensor was named by the user to be quantized.
    """
    name, options = plan.entries[position].name, plan.options
    tensor = plan.values(position)
    if has_nan(tensor):
        plan.notes.append(f"tensor `{name}` has NaN")
    content, indices, entropy = None, None, 0.0
    unchanged = _unchanged(plan, name, tensor)
    if unchanged is not None:
        indices = unchanged.indices() if unchanged.record.kind == QUANTIZED else None
        if indices is not None:
            entropy = indices_entropy(unchanged, indices, options.order, options.scan)
        return unchanged, indices, replace(summarize(unchanged, entropy), relative_error=0.0)
    if position in plan.codebooks and not torch.isfinite(tensor).all():
        if position in plan.explicit:
            raise ValueError(
                f"tensor `{name}` must be finite to be quantized; found "
                f"{'NaN' if has_nan(tensor) else 'infinity'}. Leave it out of `tensors` or "
                "`codebooks`, and it is held exactly"
            )
    elif position in plan.codebooks:
        given = plan.codebooks[position]
        codebook = given or fit_codebook(name, tensor, plan.quantizer, options.transform)
        by_itself = given is None and isinstance(plan.quantizer, UniformQuantizer)
        is_priced = options.cells == "priced" or (options.cells == "auto" and by_itself)
        content, indices = encode_quantized(name, tensor, codebook, options, is_priced=is_priced)
    if content is None or plan.automatic:
        plain = encode_plain(name, tensor, options, norms)
        if content is None or plain.values.nbytes < _quantized_bytes(content):
            content, indices = plain, None
    if indices is not None:
        entropy = indices_entropy(content, indices, options.order, options.scan)
    summary = replace(summarize(content, entropy), relative_error=_error(tensor, content, indices))
    return content, indices, summary


def _unchanged(plan: Plan, name: str, tensor: Tensor) -> Content | None:
    """What the base holds of a tensor, if it holds its very bits; else None."""
    before = plan.base.contents.get(name) if plan.base is not None else None
    if before is None or before.record.storage.dtype != EXACT[tensor.dtype].dtype:
        return None
    words = to_words(tensor, EXACT[tensor.dtype])
    same = before.record.shape == tuple(tensor.shape) and np.array_equal(before.words(), words)
    return before if same else None


def shortest_payload(
    indices: np.ndarray, num_levels: int, options: FileOptions, transform: str = "none"
) -> tuple[bytes, int]:
    """The payload of the coder of `options`, or a shorter one, and the number of its coder.

    Next to the context coder, which learns as it goes, a simpler one may win on a tensor: the
    tuples that the entropy term counted, or plain bits. We trust any other coder without trying
    alternatives. A coder whose least possible size is not smaller does not run.

    Args:
        indices: Integers in `[0, num_levels)`, any shape.
        num_levels: At least 2.
        options: Its `coder`, `order` and `scan`.
        transform: Of the tensor; with one, `context` stands for the coder `frequency`.
    """
    tuples = {"order": options.order, "scan": options.scan}
    coder = get_coder(options.coder, **tuples if options.coder == "tuples" else {})
    if options.coder == "context":
        coder = context_coder(transform)
    payload = coder.encode(indices, num_levels)
    if options.coder == "context":
        for other in _simpler(num_levels, options):
            if other.least_bytes(indices, num_levels) < len(payload):
                coded = other.encode(indices, num_levels)
                if len(coded) < len(payload):
                    coder, payload = other, coded
    return payload, CODERS[coder.name].number


def _simpler(num_levels: int, options: FileOptions) -> list[TuplesCoder | RawCoder]:
    """Coders to try beside the context coder, those that can number their tuples."""
    tuples = TuplesCoder(order=options.order, scan=options.scan)
    return [tuples, RawCoder()] if tuples.takes(num_levels) else [RawCoder()]


def fit_codebook(
    name: str, tensor: Tensor, quantizer: Quantizer, transform: str | Mapping[str, str]
) -> Codebook:
    """The codebook of a tensor (on the CPU), with its transform.

    Args:
        name: Name of the tensor.
        tensor: Floating, finite, at least one entry.
        quantizer: Fits the levels.
        transform: As `hemp_lightning.save` takes it.
    """
    chosen = asked_transform(transform, name, tensor.shape)
    if chosen == "auto":
        exact = tensor if tensor.dtype == torch.float64 else tensor.float()
        chosen = best_transform(exact.numpy())
    if chosen != "none" and not float(tensor.abs().max()) * MAX_KERNEL <= MAX_LEVEL:
        chosen = "none"
    seen = Codebook(torch.zeros(1), transform=chosen).coefficients(tensor)
    return replace(quantizer.fit(seen).half_precision(), transform=chosen)


def encode_quantized(
    name: str, tensor: Tensor, codebook: Codebook, options: FileOptions, *, is_priced: bool = False
) -> tuple[Content, np.ndarray]:
    """Content of a tensor (on the CPU) that is quantized, and its indices.

    Levels that no weight takes are left out.

    Args:
        name: Name of the tensor.
        tensor: Floating, finite, at least one entry.
        codebook: Its codebook.
        options: How it is coded.
        is_priced: Whether levels are chosen by what their indices cost, see `assign_priced`, if
            the coder knows that.
    """
    seen = codebook.coefficients(tensor)
    indices = _assign(seen, codebook.plain())
    if is_priced and options.coder in PRICED_CODERS:
        values = seen.float().contiguous().numpy()
        levels = codebook.levels.cpu().numpy()
        indices = assign_priced(values, levels, indices, codebook.transform)
    del seen
    used = np.flatnonzero(tally(indices, codebook.num_levels))
    levels = codebook.levels.cpu().numpy()[used]
    if len(used) < codebook.num_levels:
        ranks = np.zeros(codebook.num_levels, index_dtype(len(used)))
        ranks[used] = np.arange(len(used))
        indices = gather(ranks, indices.reshape(-1)).reshape(indices.shape)
    coder, payload = 0, b""
    if len(used) > 1:
        payload, coder = shortest_payload(indices, len(used), options, codebook.transform)
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
        transform=codebook.transform,
    )
    return Content(record, levels, payload), indices


def encode_plain(name: str, tensor: Tensor, options: FileOptions, norms: Norms) -> Content:
    """Content of a tensor (on the CPU) that is stored as it is, or shorter within tolerance."""
    storage, limits = EXACT[tensor.dtype], None
    shorter = FLOAT_DTYPES[options.float_dtype]
    if tensor.dtype == torch.float32 and not torch.isfinite(tensor).all():
        if torch.equal(tensor.to(DTYPES[shorter.held]).float(), tensor):  # NaN differs from itself
            storage = shorter
    elif tensor.dtype == torch.float32:
        if options.float_dtype == "steps" and tensor.ndim < 2 and not _is_recurrent(name):
            limits = norms.limits(name, tensor)
            rounded = round_to_steps(tensor, limits)
            if rounded is not None:
                record = Record(name, PLAIN, tuple(tensor.shape), STEPS, section=0)
                return Content(record, to_words(rounded, STEPS))
        if fits(tensor, shorter, limits):
            storage = shorter
    record = Record(name, PLAIN, tuple(tensor.shape), storage, section=0)
    return Content(record, to_words(tensor, storage))


def _is_recurrent(name: str) -> bool:
    """Whether this is a bias of a recurrent layer, whose error every step of a sequence repeats."""
    return name.rpartition(".")[2].startswith(("bias_ih", "bias_hh"))


def _quantized_bytes(content: Content) -> int:
    """Bytes that levels and indices take."""
    if content.record.wide_levels:
        return len(content.payload) + 4 * len(content.values)
    return len(content.payload) + len(write_levels([content.values], []))


def _error(tensor: Tensor, content: Content, indices: np.ndarray | None) -> float:
    """Relative error of what stands in the file, in pieces: it is never there as a whole."""
    flat = tensor.reshape(-1)
    if content.record.kind == PLAIN:
        if content.record.storage == EXACT[tensor.dtype]:
            return 0.0
        return relative_error(flat, tensor_in(content).reshape(-1))
    assert indices is not None
    levels = Codebook(torch.from_numpy(content.values), transform=content.record.transform)
    rest = tensor.shape[1:] if levels.transform != "none" else ()  # kernels stay whole
    numbers = indices.reshape(-1, *rest)
    rows, size, off = max(1, _CHUNK // max(1, numbers[:1].size)), 0.0, 0.0
    for start in range(0, len(numbers), rows):
        piece = torch.from_numpy(np.ascontiguousarray(numbers[start : start + rows]))
        found = levels.reconstruct(piece).reshape(-1)
        begin = start * numbers[:1].size
        parts = squared_error(flat[begin : begin + len(found)], found)
        size, off = size + parts[0], off + parts[1]
    return math.sqrt(off / size) if size else (math.inf if off else 0.0)


def _assign(tensor: Tensor, codebook: Codebook) -> np.ndarray:
    """Indices, in pieces: torch has them in eight bytes each, which a large tensor cannot spare."""
    flat = tensor.reshape(-1)
    indices = np.empty(flat.numel(), index_dtype(codebook.num_levels))
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        indices[start : start + _CHUNK] = codebook.assign(part).numpy()
    return indices.reshape(tuple(tensor.shape))
