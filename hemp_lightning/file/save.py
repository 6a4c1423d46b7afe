"""The `.hemp` file: a whole state_dict, its weights as coded indices, checked and complete.

`save` writes one, `load` and `load_into` read it, `inspect` tells what is in it, `verify` that it
is whole. FORMAT.md is the specification. Reading runs no code from the file, and never allocates
for what the file only claims; whatever is broken in it is a `HempFileError`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
from torch import nn

from hemp_lightning.errors import listed
from hemp_lightning.file.encode import encode_plain, encode_quantized
from hemp_lightning.file.fold_norms import folded_state
from hemp_lightning.file.format.directory import ALIAS, Record
from hemp_lightning.file.format.files import checksum_of, opened, replacing, write_file
from hemp_lightning.file.format.sections import SECTION_BYTES, Content, read_section, write_section
from hemp_lightning.file.format.storages import QUANTIZABLE
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.parallel import count_threads, in_order
from hemp_lightning.file.reorder_units import reordered_state
from hemp_lightning.file.state import (
    Entry,
    State,
    check_values,
    chosen_names,
    read_entries,
    uncompiled,
)
from hemp_lightning.file.summary import Summary, TensorSummary, indices_entropy, summarize, total
from hemp_lightning.file.tolerances import Norms
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer, get_quantizer

_SPOOL_BYTES = 2**24  # coded sections beyond this wait on the disk and not in memory


def save(
    model_or_state_dict: nn.Module | State,
    path: str | os.PathLike[str],
    *,
    num_levels: int = 16,
    quantizer: str | Quantizer = "lloyd_max",
    coder: str = "context",
    codebooks: Mapping[str, Codebook] | None = None,
    tensors: str | Sequence[str] = "weights",
    order: int = 2,
    scan: str = "row_major",
    float_dtype: str = "steps",
    fold_norms: bool = False,
    reorder_units: bool = False,
    threads: int | None = None,
) -> Summary:
    """Write a model or state_dict as one `.hemp` file.

    The file is decoded and compared with what should be in it before it takes its name; on any
    failure an old file of that name stays as it was. Tensors are coded one at a time by each
    thread: beside the state_dict there is memory for a few copies of `threads` of them.

    Args:
        model_or_state_dict: What to write; all of its state_dict is in the file.
        path: The file to write.
        num_levels: The most levels of a quantized tensor.
        quantizer: Fits levels to tensors: a name of
            `hemp_lightning.quantization.QUANTIZERS` or an object with `fit`.
        coder: A name of `hemp_lightning.coding.CODERS`. `context` gives way to a simpler coder
            where that is smaller.
        codebooks: Codebooks by name: exactly these tensors are quantized, with these. `num_levels`,
            `quantizer` and `tensors` are not used then.
        tensors: What to quantize: `weights` (of a module: of convolutions, linear layers and
            embeddings; of a state_dict: floating tensors with two axes or more), `layers` (of a
            module: their biases too), `all` floating parameters, or names or patterns of them.
        order: Length of the tuples, for the coder `tuples` and for the entropies of the summary.
        scan: Scan order of the tuples, for the same.
        float_dtype: How float32 tensors that are not quantized are held. `steps`: biases, norm
            scales and statistics, all with at most one axis, on steps of a sixteenth or less of
            their deviation, see `round_to_steps`; the others as with `float16`. `float16` or
            `bfloat16`: so, where that moves each entry by at most `2^-11` or `2^-8` of itself or by
            `2^-22` of the largest entry; else exactly, as with `float32`. Every other dtype is
            always held exactly.
        fold_norms: Say each BatchNorm in two numbers a channel and not four, see `folded_state`:
            the file is smaller by half of its norms and the network computes the same in evaluation
            mode, but is no longer one to train further. Needs a module, which knows its norms.
        reorder_units: Put hidden units that fell silent behind the others, and leave out weights
            that listen to units which are always 0, see `reordered_state`: the file is smaller and
            the network computes the same, with its hidden units in another order. Needs a module,
            which knows its layers.
        threads: How many tensors are coded at a time; None for one per processor at hand, at most
            8. The file does not depend on it.

    Returns:
        The sizes.

    Raises:
        ValueError: If an argument is out of range, or a tensor cannot be written (NaN, sharded,
            a dtype that is not known): its name is told.
        TypeError: If an argument or an entry of the state_dict is of a wrong type.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> summary = save(nn.Linear(64, 32), f"{folder.name}/net.hemp", num_levels=4)
        >>> from hemp_lightning import load
        >>> summary.float_bytes, summary.tensors[0].num_levels
        (8320, 4)
        >>> [tuple(tensor.shape) for tensor in load(summary.path).values()]
        [(32, 64), (32,)]
    """
    begin = time.perf_counter()
    threads = count_threads(threads)
    options = FileOptions(coder, float_dtype, fold_norms, reorder_units, order, scan)
    entries = read_entries(model_or_state_dict)
    if codebooks is None:
        fitter = get_quantizer(quantizer, num_levels)
        names = chosen_names(model_or_state_dict, entries, tensors)
        books: dict[int, Codebook | None] = {_position(entries, name): None for name in names}
    else:
        fitter = None
        books = _check_codebooks(entries, codebooks)
    if fold_norms or reorder_units:
        if not isinstance(model_or_state_dict, nn.Module):
            raise TypeError(
                f"`{'fold_norms' if fold_norms else 'reorder_units'}` needs a module, which knows "
                f"its layers; found {type(model_or_state_dict).__name__}. Give the module, or "
                "leave it out"
            )
        module = uncompiled(model_or_state_dict)
        state = module.state_dict()
        if fold_norms:
            quantized = {entries[position].name for position in books}
            state = folded_state(module, quantized, float_dtype)
        if reorder_units:
            state = reordered_state(module, state, codebooks)
        entries = read_entries(state)
    norms = Norms(entries)

    def code(position: int) -> tuple[Content, TensorSummary]:
        entry = entries[position]
        tensor = entry.values()
        check_values(entry.name, tensor, quantized=position in books)
        if position not in books:
            content = encode_plain(entry.name, tensor, options, norms)
            return content, summarize(content)
        codebook = books[position]
        if codebook is None:
            assert fitter is not None
            codebook = fitter.fit(tensor).half_precision()
        content, indices = encode_quantized(entry.name, tensor, codebook, options)
        del tensor
        _check(np.array_equal(content.indices(), indices), entry.name)
        return content, summarize(content, indices_entropy(content, indices, order, scan))

    records: dict[int, Record] = {}
    sizes: list[int] = []
    summaries: dict[str, TensorSummary] = {}
    own = [position for position, entry in enumerate(entries) if entry.target is None]
    with (
        replacing(path) as temporary,
        closing(in_order(code, own, threads)) as coded,
        tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(temporary.parent)) as spool,
    ):
        for positions in _sections(entries):
            contents = []
            for content, summary in islice(coded, len(positions)):
                contents.append(_in_section(content, len(sizes)))
                summaries[summary.name] = summary
            data = write_section(contents)
            decoded = read_section(data, [content.record for content in contents])
            for wanted, found in zip(contents, decoded, strict=True):
                name = wanted.record.name
                words = wanted.values.view(np.uint8), found.values.view(np.uint8)
                _check(np.array_equal(*words) and wanted.payload == found.payload, name)
                summaries[name] = replace(summaries[name], bytes=found.size)
            spool.write(data)
            spool.write(checksum_of(data))
            sizes.append(len(data))
            records.update(zip(positions, (c.record for c in contents), strict=True))
        for position, entry in enumerate(entries):
            if entry.target is not None:
                target = records[entry.target]
                records[position] = replace(
                    target, name=entry.name, kind=ALIAS, target=entry.target
                )
        ordered = [records[position] for position in range(len(entries))]
        with temporary.open("wb") as file:
            write_file(file, ordered, sizes, spool)
        # What stands on the disk is what was checked above, section by section.
        with opened(temporary, max_bytes=sum(r.num_bytes for r in ordered)) as written:
            if written.records != ordered:
                raise RuntimeError("the directory read back differs from the one written")
            for _ in written.sections():
                pass
            file_bytes = written.size
    return total(path, file_bytes, ordered, summaries, time.perf_counter() - begin)


def _sections(entries: list[Entry]) -> Iterator[list[int]]:
    """Positions of the entries that share a section."""
    section: list[int] = []
    size = 0
    for position, entry in enumerate(entries):
        if entry.target is not None:
            continue
        own = entry.tensor.numel() * entry.tensor.dtype.itemsize
        if section and size + own > SECTION_BYTES:
            yield section
            section, size = [], 0
        section.append(position)
        size += own
    if section:
        yield section


def _in_section(content: Content, section: int) -> Content:
    return replace(content, record=replace(content.record, section=section))


def _check(same: bool, name: str) -> None:
    """Raise RuntimeError unless what was read back is what was to be written, bit for bit."""
    if not same:
        raise RuntimeError(
            f"tensor `{name}` reads back differently from what was written; "
            f"no file is written. This is a defect of hemp_lightning: please report it"
        )


def _position(entries: list[Entry], name: str) -> int:
    """Position of the entry that holds the tensor of that name, behind an alias too."""
    position = [entry.name for entry in entries].index(name)
    target = entries[position].target
    return position if target is None else target


def _check_codebooks(
    entries: list[Entry], codebooks: Mapping[str, Codebook]
) -> dict[int, Codebook | None]:
    """Codebooks by position of the entry."""
    by_name = {entry.name: entry.tensor for entry in entries}
    for name, codebook in codebooks.items():
        if name not in by_name:
            raise ValueError(
                f"`codebooks` must have names of the state_dict; found {name!r}, which is none of "
                f"{listed(list(by_name))}"
            )
        tensor = by_name[name]
        if tensor.dtype not in QUANTIZABLE or not tensor.numel():
            raise ValueError(
                f"`codebooks` must be for floating tensors with an entry; found {name!r} of dtype "
                f"{tensor.dtype} and shape {tuple(tensor.shape)}"
            )
        if not isinstance(codebook, Codebook):
            raise TypeError(
                f"`codebooks[{name!r}]` must be a Codebook; found {type(codebook).__name__}"
            )
    return {_position(entries, name): codebook.to("cpu") for name, codebook in codebooks.items()}
