"""Float checkpoints: `.pt`, `.pth`, `.ckpt` and `.safetensors`, read without running their code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hemp_lightning.layout.files import replacing

PICKLED = (".pt", ".pth", ".ckpt")
SUFFIXES = (*PICKLED, ".safetensors")


class CheckpointError(Exception):
    """A float checkpoint that cannot be read."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state_dict in a checkpoint; of a Lightning checkpoint that under `state_dict`.

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
            return load_file(path)
        # Mapped into memory, a large checkpoint is read tensor by tensor.
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


def write_checkpoint(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write a state_dict, all or nothing, in the form that the suffix of `path` says.

    Raises:
        ValueError: If the suffix is none of `SUFFIXES`, or the form cannot hold a tensor.
        OSError: If it cannot be written.
    """
    suffix = _suffix(path, "FILE")
    with replacing(path) as temporary:
        if suffix != ".safetensors":
            torch.save(dict(state), temporary)
            return
        try:
            save_file(_unshared(state), temporary)
        except (safetensors.SafetensorError, KeyError) as error:
            raise ValueError(f"a .safetensors file cannot hold this: {_reason(error)}") from error


def _suffix(path: str | os.PathLike[str], what: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{what} must end in {', '.join(SUFFIXES)}; found {os.fspath(path)}")
    return suffix


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors twice: that format knows no sharing."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in state.items():
        tensors[name] = tensor.clone() if id(tensor) in seen else tensor
        seen.add(id(tensor))
    return tensors


def _reason(error: Exception) -> str:
    """The first sentence of an error, on one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0]
