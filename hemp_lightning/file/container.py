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
import torch
from torch import Tensor, nn

from hemp_lightning.entropy.formula import index_entropy
from hemp_lightning.errors import located
from hemp_lightning.file.encode import Options, encode_plain, encode_quantized
from hemp_lightning.file.fold_norms import folded_state
from hemp_lightning.file.format.directory import ALIAS, QUANTIZED, Record
from hemp_lightning.file.format.files import HempFile, checksum_of, opened, replacing, write_file
from hemp_lightning.file.format.sections import SECTION_BYTES, Content, read_section, write_section
from hemp_lightning.file.format.storages import QUANTIZABLE
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
from hemp_lightning.file.summary import Summary, TensorSummary, original, summarize, total
from hemp_lightning.file.tolerances import Norms
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer, get_quantizer

_SPOOL_BYTES = 2**24  # coded sections beyond this wait on the disk and not in memory


def save(
    path: str | os.PathLike[str],
    model_or_state_dict: nn.Module | State,
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
        path: The file to write.
        model_or_state_dict: What to write; all of its state_dict is in the file.
        num_levels: The most levels of a quantized tensor.
        quantizer: Fits levels to tensors: a name of `hemp_lightning.quantization.quantizers.QUANTIZERS` or an
            object with `fit`.
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
        >>> summary = save(f"{folder.name}/net.hemp", nn.Linear(64, 32), num_levels=4)
        >>> summary.float_bytes, summary.tensors[0].num_levels
        (8320, 4)
        >>> [tuple(tensor.shape) for tensor in load(summary.path).values()]
        [(32, 64), (32,)]
    """
    begin = time.perf_counter()
    threads = count_threads(threads)
    options = Options(coder, order, scan, float_dtype)
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
        return content, summarize(content, _entropy(content, indices, order, scan))

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


def load(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    *,
    max_bytes: int | None = None,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """Read a file: the state_dict that was saved, with its quantized weights.

    Args:
        path: A `.hemp` file.
        device: Where the tensors go.
        max_bytes: The most bytes that the tensors may take; by default 256 MiB and 4096 times the
            size of the file. A file that declares more is refused before anything is allocated.
        threads: How many tensors are decoded at a time; None for one per processor at hand, at
            most 8.

    Returns:
        Tensors by key, in the order, shapes and dtypes of the saved state_dict; keys of tied
        weights share one tensor.

    Raises:
        HempFileError: If the file is not a whole, valid `.hemp` file, or is larger than allowed.
        OSError: If it cannot be read.
    """
    with opened(path, max_bytes) as file:
        tensors = {name: tensor.to(device) for name, tensor in decoded(file, threads)}
        return {record.name: tensors[original(file.records, record)] for record in file.records}


def decoded(file: HempFile, threads: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of an open file with their names, in its order, aliases left out.

    Args:
        file: Of `hemp_lightning.file.format.files.opened`.
        threads: See `load`; so many tensors are in memory at a time.

    Raises:
        HempFileError: As `load`.
    """
    return in_order(
        lambda content: (content.record.name, content.tensor()),
        _contents(file),
        count_threads(threads),
    )


def load_into(
    model: nn.Module, path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> nn.Module:
    """Read a file into a model, which must have the very keys and shapes of the file.

    Args:
        model: Its parameters and buffers are overwritten, and keep their dtypes and devices.
        path: A `.hemp` file.
        max_bytes: See `load`.

    Returns:
        The model.

    Raises:
        HempFileError: As `load`.
        ValueError: If keys or shapes differ; all differences are told, and nothing is overwritten.
    """
    state = load(path, max_bytes=max_bytes)
    target = uncompiled(model)
    own = target.state_dict()
    differences = []
    for what, names in (
        ("has no", [name for name in own if name not in state]),
        ("has the unknown", [name for name in state if name not in own]),
    ):
        if names:
            differences.append(f"{what} {_some(names)}")
    for name, tensor in state.items():
        expected = getattr(own.get(name), "shape", tensor.shape)
        if expected != tensor.shape:
            differences.append(f"has {name} of shape {tuple(tensor.shape)}, not {tuple(expected)}")
    if differences:
        raise ValueError(
            f"`path` must hold the tensors of `model`, a {type(target).__name__}; "
            f"found that {os.fspath(path)} {'; '.join(differences)}"
        )
    target.load_state_dict(state)
    return model


def inspect(
    path: str | os.PathLike[str],
    *,
    order: int = 2,
    scan: str = "row_major",
    max_bytes: int | None = None,
    threads: int = 1,
) -> Summary:
    """What is in a file, without more memory than its largest section takes for each thread.

    Args:
        path: A `.hemp` file.
        order: Length of the tuples of the entropies.
        scan: Scan order of the tuples.
        max_bytes: See `load`.
        threads: How many tensors are decoded at a time.

    Raises:
        HempFileError: As `load`.
        ValueError: If `order` or `scan` is out of range.
    """

    def look(content: Content) -> TensorSummary:
        if content.record.kind != QUANTIZED:
            return summarize(content)
        # the indices are gone before their coder decodes them again, to see what its model takes
        return summarize(content, _entropy(content, content.indices(), order, scan))

    with opened(path, max_bytes) as file:
        contents = _contents(file, keeps_entries=False)
        found = in_order(look, contents, count_threads(threads))
        summaries = {summary.name: summary for summary in found}
        return total(path, file.size, file.records, summaries)


def verify(path: str | os.PathLike[str], *, max_bytes: int | None = None, threads: int = 1) -> None:
    """Check a whole file: checksums, and that every tensor decodes.

    Args:
        path: A `.hemp` file.
        max_bytes: See `load`.
        threads: How many tensors are decoded at a time.

    Raises:
        HempFileError: As `load`.
    """

    def check(content: Content) -> None:
        if content.record.kind == QUANTIZED:  # others are decoded with their section
            content.indices()

    with opened(path, max_bytes) as file:
        for _ in in_order(check, _contents(file, keeps_entries=False), count_threads(threads)):
            pass


def _contents(file: HempFile, *, keeps_entries: bool = True) -> Iterator[Content]:
    """Contents of all sections, one section at a time; see `read_section`."""
    for start, data, records in file.sections():
        with located(start):
            contents = read_section(data, records, keeps_entries=keeps_entries)
        del data
        contents.reverse()
        while contents:  # what was taken is nobody else's, and can be freed
            content = contents.pop()
            yield replace(content, offset=start + content.offset)
            del content


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
                f"{_some(list(by_name))}"
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


def _entropy(content: Content, indices: np.ndarray, order: int, scan: str) -> float:
    return index_entropy(torch.from_numpy(indices), content.record.num_levels, order, scan=scan)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
