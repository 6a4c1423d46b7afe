"""Reading a `.hemp` file: `load`, `from_file`, `inspect`, and `verify` that it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from hemp_lightning.errors import listed, located
from hemp_lightning.file.format.directory import QUANTIZED
from hemp_lightning.file.format.files import HempFile, opened
from hemp_lightning.file.format.sections import Content, read_section
from hemp_lightning.file.parallel import count_threads, in_order
from hemp_lightning.file.state import (
    uncompiled,
)
from hemp_lightning.file.summary import (
    Summary,
    TensorSummary,
    indices_entropy,
    original,
    summarize,
    total,
)


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


def from_file(
    path: str | os.PathLike[str],
    build: Callable[[], nn.Module],
    *,
    max_bytes: int | None = None,
) -> nn.Module:
    """Build a network and read its weights from a file.

    Args:
        path: A `.hemp` file.
        build: Returns the network, whose keys and shapes are those of the file.
        max_bytes: See `load`.

    Returns:
        The network in evaluation mode, on the devices where `build` put it. `requires_grad` stays
        as it was.

    Raises:
        HempFileError: As `load`.
        TypeError: If `build` is not callable, or returns no module.
        ValueError: As `load_into`.

    Example:
        >>> import tempfile
        >>> from hemp_lightning import save
        >>> folder = tempfile.TemporaryDirectory()
        >>> summary = save(nn.Linear(3, 2), f"{folder.name}/net.hemp")
        >>> from_file(summary.path, lambda: nn.Linear(3, 2)).training
        False
    """
    if not callable(build) or isinstance(build, nn.Module):
        raise TypeError(
            f"`build` must be a callable that returns a module; found {type(build).__name__}"
        )
    model = build()
    if not isinstance(model, nn.Module):
        raise TypeError(f"`build` must return a module; found {type(model).__name__}")
    return load_into(model, path, max_bytes=max_bytes).eval()


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
            differences.append(f"{what} {listed(names)}")
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
        return summarize(content, indices_entropy(content, content.indices(), order, scan))

    with opened(path, max_bytes) as file:
        contents = _contents(file, keeps_entries=False)
        found = in_order(look, contents, count_threads(threads))
        summaries = {summary.name: summary for summary in found}
        return total(path, file.size, file.records, summaries, metadata=file.metadata)


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
