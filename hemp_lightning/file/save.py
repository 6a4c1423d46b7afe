"""The `.hemp` file: a whole state_dict, its weights as coded indices, checked and complete.

`save` writes one, `load` and `load_into` read it, `inspect` tells what is in it, `verify` that it
is whole. FORMAT.md is the specification. Reading runs no code from the file, and never allocates
for what the file only claims; whatever is broken in it is a `HempFileError`.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from hemp_lightning.file.choose import Plan, choose, choose_exactly
from hemp_lightning.file.format.files import write_file
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.state import State
from hemp_lightning.file.updates import become_update, read_whole
from hemp_lightning.file.write import check_written, encode_sections, size_in_file
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer
from hemp_reader.errors import listed
from hemp_reader.format.metadata import check_metadata
from hemp_reader.parallel import count_threads
from hemp_reader.reading import contents_of, open_file
from hemp_reader.replacing import replacing
from hemp_reader.summary import Summary, total

LARGE_ERROR = 0.1
"""Relative error of a tensor above which an untrained network is likely to be damaged."""

_SPOOL_BYTES = 2**24  # coded sections beyond this wait on the disk and not in memory


def save(
    model_or_state_dict: nn.Module | State,
    path: str | os.PathLike[str],
    *,
    num_levels: int | None = None,
    quantizer: str | Quantizer | None = None,
    coder: str = "context",
    codebooks: Mapping[str, Codebook] | None = None,
    tensors: str | Sequence[str] = "weights",
    order: int = 2,
    scan: str = "row_major",
    float_dtype: str = "float16",
    fold_norms: bool = False,
    reorder_units: bool = False,
    transform: str | Mapping[str, str] = "auto",
    cells: str = "auto",
    metadata: Mapping[str, str] | None = None,
    base: str | os.PathLike[str] | None = None,
    lossless: bool = False,
    threads: int | None = None,
) -> Summary:
    """Write a model or state_dict as one `.hemp` file.

    The file is decoded and compared before it takes its name; on any failure an old file stays.

    Args:
        model_or_state_dict: What to write; all of its state_dict is in the file.
        path: The file to write.
        num_levels: The most levels of a tensor. None: as many as keep the error of each below half
            a percent, see `BoundedQuantizer`: an untrained network then computes nearly the same.
        quantizer: A name of `QUANTIZERS` or an object with `fit`; None: `uniform`, or `lloyd_max`
            where `num_levels` is given.
        coder: A name of `hemp_lightning.coding.CODERS`, see `FileOptions`.
        codebooks: Codebooks by name: exactly these tensors are quantized, with these.
        tensors: What to quantize: `weights`, `layers` (biases too), `all`, or names or patterns,
            see `select_tensors`. A tensor that is not finite is held exactly, unless it is named.
        order: See `FileOptions`, as for the six that follow.
        scan: Scan order of the tuples.
        float_dtype: How other tensors are held.
        fold_norms: Whether a BatchNorm is said in two numbers a channel.
        reorder_units: Whether silent hidden units are put last.
        transform: What is done to kernels before they are quantized.
        cells: Which level a weight takes.
        metadata: Strings by name that the file carries beside its tensors.
        base: A file that the reader has already: the update of it is written, or the whole if that
            is not larger. Tensors that are what the base holds stay as they are.
        lossless: Whether every tensor keeps every bit. Then nothing is quantized.
        threads: How many tensors are coded at a time; None for one per processor, at most 8.

    Returns:
        The sizes.

    Raises:
        ValueError: If an argument is out of range, or a tensor, whose name is told, not writable.
        TypeError: If an argument or an entry of the state_dict is of a wrong type.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> summary = save(nn.Linear(64, 32), f"{folder.name}/net.hemp", num_levels=4)
        >>> summary.float_bytes, summary.tensors[0].num_levels
        (8320, 4)
    """
    begin, threads = time.perf_counter(), count_threads(threads)
    held = FileOptions(coder, float_dtype, fold_norms, reorder_units, order, scan, transform, cells)
    words: dict[str, Any] = {
        "num_levels": num_levels,
        "quantizer": quantizer,
        "codebooks": codebooks,
    }
    if lossless:
        plan = choose_exactly(model_or_state_dict, held)
    else:
        plan = choose(model_or_state_dict, tensors=tensors, options=held, **words)
    if base is not None:
        plan = replace(plan, base=read_whole(base)[0])
    summary = _write(plan, path, check_metadata(metadata or {}), threads, begin, base)
    _warn(plan, summary, fitted=codebooks is None)
    return summary


def _write(
    plan: Plan,
    path: str | os.PathLike[str],
    metadata: dict[str, str],
    threads: int,
    begin: float,
    base: str | os.PathLike[str] | None = None,
) -> Summary:
    """Encode, write, decode and compare; only then does the file take its name."""
    with replacing(path) as temporary:
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(temporary.parent)) as spool:
            records, sizes, summaries = encode_sections(plan, spool, threads)
            with temporary.open("wb") as file:
                write_file(file, records, sizes, spool, metadata)
        file_bytes = check_written(temporary, records, metadata)
        if base is not None and become_update(temporary, base):
            file_bytes = temporary.stat().st_size
            with open_file(temporary, 2**62, base) as update:
                for content in contents_of(update):
                    name = content.record.name
                    summaries[name] = replace(summaries[name], bytes=content.size)
    seconds = time.perf_counter() - begin
    return total(path, file_bytes, records, summaries, seconds, metadata)


def size_of(
    model_or_state_dict: nn.Module | State,
    *,
    options: FileOptions | None = None,
    threads: int | None = None,
    **chosen: Any,
) -> Summary:
    """The summary that `save` would return, with the exact bytes, and no file.

    Nothing is decoded again and nothing touches the disk: it takes half of the time.

    Args:
        model_or_state_dict: See `save`.
        options: How the file would be written.
        threads: See `save`.
        **chosen: `num_levels`, `quantizer`, `codebooks` and `tensors`, as `save` has them.

    Raises:
        ValueError: As `save`.
        TypeError: As `save`.

    Example:
        >>> size_of(nn.Linear(64, 32), num_levels=4).tensors[0].num_levels
        4
    """
    begin = time.perf_counter()
    plan = choose(model_or_state_dict, options=options, **chosen)
    coded = encode_sections(plan, None, count_threads(threads), checks=False)
    records, sizes, summaries = coded
    size = size_in_file(records, sizes)
    return total("", size, records, summaries, time.perf_counter() - begin)


def _warn(plan: Plan, summary: Summary, fitted: bool) -> None:
    """Tell what the user would rather know: NaN, and tensors far from what they were."""
    said = [*plan.notes]
    large = {
        tensor.name: error
        for tensor in summary.tensors
        if (error := tensor.relative_error or 0.0) > LARGE_ERROR
        and tensor.num_levels
        and not tensor.coder.startswith("alias")
    }
    if fitted and large:
        named = listed([f"{name} ({error:.0%})" for name, error in large.items()])
        said.append(
            f"the levels are far from the weights of {named}: an untrained network is likely to be "
            "damaged. Raise `num_levels`, or leave it out, and the error decides"
        )
    for words in said:
        warnings.warn(words, stacklevel=3)
