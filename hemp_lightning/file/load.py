"""Reading a `.hemp` file into tensors: `load`, `load_into` and `from_file`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from hemp_lightning.file.format.sections import tensor_in
from hemp_lightning.file.state import uncompiled
from hemp_reader.errors import listed
from hemp_reader.format.files import HempFile
from hemp_reader.parallel import count_threads, in_order
from hemp_reader.reading import contents_of, open_file
from hemp_reader.summary import original


def load(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    *,
    base: str | os.PathLike[str] | None = None,
    max_bytes: int | None = None,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """Read a file: the state_dict that was saved, with its quantized weights.

    Args:
        path: A `.hemp` file.
        device: Where the tensors go.
        base: The file that it updates, if it is an update; else it is not used.
        max_bytes: The most bytes that the tensors may take; by default 256 MiB and 4096 times the
            size of the file. A file that declares more is refused before anything is allocated.
        threads: How many tensors are decoded at a time; None for one per processor at hand, at
            most 8.

    Returns:
        Tensors by key, in the order, shapes and dtypes of the saved state_dict; keys of tied
        weights share one tensor.

    Raises:
        HempFileError: If the file is not a whole, valid `.hemp` file, is larger than allowed, or
            updates another file than `base`.
        OSError: If it cannot be read.
    """
    with open_file(path, max_bytes, base) as file:
        tensors = {name: tensor.to(device) for name, tensor in decoded(file, threads)}
        return {record.name: tensors[original(file.records, record)] for record in file.records}


def decoded(file: HempFile, threads: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of an open file with their names, in its order, aliases left out.

    Args:
        file: Of `hemp_reader.reading.open_file`.
        threads: See `load`; so many tensors are in memory at a time.

    Raises:
        HempFileError: As `load`.
    """
    return in_order(
        lambda content: (content.record.name, tensor_in(content)),
        contents_of(file),
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
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    max_bytes: int | None = None,
) -> nn.Module:
    """Read a file into a model, which must have the very keys and shapes of the file.

    Args:
        model: Its parameters and buffers are overwritten, and keep their dtypes and devices.
        path: A `.hemp` file.
        base: See `load`.
        max_bytes: See `load`.

    Returns:
        The model.

    Raises:
        HempFileError: As `load`.
        ValueError: If keys or shapes differ; all differences are told, and nothing is overwritten.
    """
    state = load(path, base=base, max_bytes=max_bytes)
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
