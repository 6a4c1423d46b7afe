"""Float checkpoints: `.pt`, `.pth`, `.ckpt` and `.safetensors`, read without running their code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hemp_lightning.file.format.directory import ALIAS
from hemp_lightning.file.format.files import opened, replacing
from hemp_lightning.file.load import decoded, load
from hemp_lightning.file.safetensors_files import SafetensorsWriter, scan_safetensors
from hemp_lightning.file.state import Deferred

PICKLED = (".pt", ".pth", ".ckpt")
SUFFIXES = (*PICKLED, ".safetensors")


class CheckpointError(Exception):
    """A float checkpoint that cannot be read."""


def scan_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor] | dict[str, Deferred]:
    """The state_dict in a checkpoint; of a Lightning checkpoint that under `state_dict`.

    Tensors of a `.safetensors` file are read when they are wanted, one at a time. Those of a
    pickled file are mapped into memory, which the system reads and drops page by page.

    Args:
        path: A file of one of `SUFFIXES`. Pickled ones are read with `weights_only=True`.

    Raises:
        ValueError: If the suffix is another.
        CheckpointError: If the file is broken, holds objects other than tensors, or no state_dict.
        OSError: If it cannot be opened.
    """
    suffix = _suffix(path, "CHECKPOINT")
    with open(path, "rb"):
        pass  # what the system says about a path is better than what readers make of it
    try:
        if suffix == ".safetensors":
            return scan_safetensors(path)
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # what a broken file makes them raise is not documented
        raise CheckpointError(
            f"{os.fspath(path)} must be a whole {suffix} file, of tensors and plain values only; "
            f"found {_reason(error)}"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        others = (
            ""
            if not isinstance(found, Mapping)
            else " with "
            + ", ".join(
                f"{name!r} ({type(value).__name__})"
                for name, value in list(found.items())[:8]
                if not isinstance(value, Tensor)
            )
        )
        raise CheckpointError(
            f"{os.fspath(path)} must hold a state_dict, names with tensors, by itself or under "
            f"'state_dict'; found a {type(found).__name__}{others}"
        )
    return dict(found)


def decompress(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    threads: int | None = None,
) -> int:
    """Decode a `.hemp` file into a checkpoint, all or nothing.

    A `.safetensors` file is written tensor by tensor, and tied tensors stand in it twice, as that
    format knows no sharing. The other forms need all tensors in memory.

    Args:
        path: The `.hemp` file.
        output: The checkpoint, in the form that its suffix says.
        max_bytes: See `hemp_lightning.load`.
        threads: See `hemp_lightning.load`; so many tensors are in memory at a time.

    Returns:
        Number of tensors.

    Raises:
        HempFileError: As `hemp_lightning.load`.
        ValueError: If the suffix is none of `SUFFIXES`, or the form cannot hold a tensor.
        OSError: If a file cannot be read or written.
    """
    if _suffix(output, "FILE") != ".safetensors":
        state = load(path, max_bytes=max_bytes, threads=threads)
        with replacing(output) as temporary:
            torch.save(state, temporary)
        return len(state)
    with opened(path, max_bytes) as file:
        records = file.records
        names: dict[str, list[str]] = {r.name: [r.name] for r in records if r.kind != ALIAS}
        for record in records:
            if record.kind == ALIAS:
                names[records[record.target].name].append(record.name)
        tensors = {record.name: (record.storage.dtype, record.shape) for record in records}
        with replacing(output) as temporary, SafetensorsWriter(temporary, tensors) as writer:
            for name, tensor in decoded(file, threads):
                for each in names[name]:
                    writer.write(each, tensor)
        return len(records)


def _suffix(path: str | os.PathLike[str], what: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{what} must end in {', '.join(SUFFIXES)}; found {os.fspath(path)}")
    return suffix


def _reason(error: Exception) -> str:
    """The first sentence of an error, on one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0]
