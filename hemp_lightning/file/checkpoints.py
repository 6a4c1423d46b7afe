"""Float checkpoints in the forms in which people keep them, read without running their code."""

from __future__ import annotations

import argparse
import json
import os
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.file.load import load
from hemp_lightning.file.safetensors_files import read_metadata, scan_safetensors
from hemp_lightning.file.state import Deferred
from hemp_reader.errors import HempFileError, listed

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pth.tar", ".pt.tar", ".tar")
SUFFIXES = (*PICKLED, ".safetensors")
"""Suffixes of float checkpoints in one file."""

INDEX, HEMP = ".index.json", ".hemp"

KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"),
    *("params", "weights", "model_weights", "net_state_dict", "generator", "encoder"),
    *("params_ema", "ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model"),
    *("checkpoint", "teacher"),
)
"""Names under which tensors stand in published checkpoints; the first one that is there counts."""

# Plain values that such files hold, whose making runs no code of the file.
_PLAIN = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
    *([np._core.multiarray.scalar] if hasattr(np, "_core") else []),
]


class CheckpointError(Exception):
    """A float checkpoint that cannot be read."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read.

    Attributes:
        tensors: Tensors by name; those of `.safetensors` files are read when they are wanted.
        notes: What the user is to be told: where the tensors stood, and what was left out.
        metadata: Metadata of a `.safetensors` file, else empty.
    """

    tensors: Mapping[str, Tensor | Deferred]
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """The tensors in a checkpoint, nested or not.

    Tensors of a `.safetensors` file are read when they are wanted, one at a time. Those of a
    pickled file are mapped into memory, which the system reads and drops page by page.

    Args:
        path: A file that ends in one of `SUFFIXES`, `.hemp`, or `.index.json` of a checkpoint in
            several files. Pickled ones are read with `weights_only=True`.
        key: Where the tensors stand, such as `ema` or `model.ema`; None for the usual `KEYS`.

    Raises:
        ValueError: If the suffix is another.
        CheckpointError: If the file is broken, holds objects that only code can make, or no
            tensors, or none under `key`.
        HempFileError: If a `.hemp` file is broken.
        OSError: If it cannot be opened.
    """
    name = os.fspath(path)
    if not has_suffix(path, (*SUFFIXES, INDEX, HEMP)):
        raise ValueError(
            f"CHECKPOINT must end in {', '.join((*SUFFIXES, INDEX, HEMP))}; found {name}"
        )
    with open(path, "rb"):
        pass  # what the system says about a path is better than what readers make of it
    if has_suffix(path, (*SUFFIXES[-1:], HEMP)) and key is not None:
        raise CheckpointError(f"`key` must be left out: {name} has no nested tensors; found {key}")
    try:
        if has_suffix(path, (INDEX,)):
            return _read_shards(Path(path), key)
        if has_suffix(path, (HEMP,)):
            return Checkpoint(dict(load(path)))
        if has_suffix(path, SUFFIXES[-1:]):
            return Checkpoint(dict(scan_safetensors(path)), [], read_metadata(path))
        content = _unpickle(path)
    except (CheckpointError, HempFileError):
        raise
    except Exception as error:  # what a broken file makes them raise is not documented
        raise CheckpointError(
            f"{name} must be a whole {_suffix_of(path)} file, of tensors and plain values only; "
            f"found {_reason(error)}"
        ) from error
    return _tensors_in(content, key, name)


def without_prefix(
    names: Collection[str], wanted: Collection[str], prefix: str | None = None
) -> str:
    """The prefix that all tensors of a network have in a checkpoint: `net.`, `module.`, or none.

    Args:
        names: Names in the checkpoint.
        wanted: Names in the network.
        prefix: The prefix that the user named; None to find it.

    Returns:
        The prefix, with its dot; empty if the names are those of the network, or do not fit.

    Raises:
        ValueError: If several prefixes have all the names, or no name has the one that was named.

    Example:
        >>> without_prefix(["net.weight", "net.bias", "loss.scale"], ["weight", "bias"])
        'net.'
    """
    own = [name for name in wanted if not name.endswith("num_batches_tracked")] or list(wanted)
    if prefix is not None:
        dotted = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
        if not any(name.startswith(dotted) for name in names):
            raise ValueError(
                f"the prefix must be one that names in the checkpoint have; found {prefix!r}, and "
                f"the names {listed(list(names))}"
            )
        return dotted
    if not own or set(own) <= set(names):
        return ""
    known = set(names)
    ends = [name.removesuffix(own[0]) for name in names if name.endswith(f".{own[0]}")]
    found = [start for start in ends if all(start + name in known for name in own)]
    if len(found) > 1:
        raise ValueError(
            f"the checkpoint must hold the network once; found it under each of {listed(found)}. "
            "Name one of them"
        )
    return found[0] if found else ""


def has_suffix(path: str | os.PathLike[str], suffixes: Sequence[str]) -> bool:
    """Whether a path ends in one of these suffixes, in whatever case.

    Example:
        >>> has_suffix("A.PTH.TAR", [".pth.tar"])
        True
    """
    return os.fspath(path).lower().endswith(tuple(suffixes))


def same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to one file that is there."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _unpickle(path: str | os.PathLike[str]) -> object:
    """What a pickled file holds; one that needs code is told by the object that needs it."""
    name, is_zip = os.fspath(path), zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(member.endswith("/constants.pkl") for member in members):
            raise CheckpointError(
                f"{name} must hold tensors; found a TorchScript archive, which is a program. Save "
                "`torch.jit.load(PATH).state_dict()` with torch.save, and give that file"
            )
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        culprit = re.search(
            r"GLOBAL ([\w.]+)|(?:Can only|allowed) .*?`?([\w]+\.[\w.]+)", str(error)
        )
        if not culprit or "weights" not in str(error).lower():
            raise
        found = culprit.group(1) or culprit.group(2)
        raise CheckpointError(
            f"{name} must hold tensors and plain values only; found an object of {found}, which "
            "only code of the file can make. If you trust it, load it with "
            "`torch.load(PATH, weights_only=False)` and save its tensors alone"
        ) from error


def _read_shards(path: Path, key: str | None) -> Checkpoint:
    """A checkpoint in several files, named by a `weight_map`."""
    index = json.loads(path.read_text())
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise CheckpointError(f"{path} must have a `weight_map` of names to files; found none")
    files = sorted(set(places.values()))
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise CheckpointError(f"{path} must name files beside it; found {outside[0]!r}")
    shards = {file: read_checkpoint(path.with_name(file), key) for file in files}
    tensors: dict[str, Tensor | Deferred] = {}
    for name, file in places.items():
        if name not in shards[file].tensors:
            raise CheckpointError(f"{path.with_name(file)} must hold `{name}`; found no such name")
        tensors[name] = shards[file].tensors[name]
    return Checkpoint(tensors, [], shards[files[0]].metadata if files else {})


def _tensors_in(content: object, key: str | None, path: str) -> Checkpoint:
    """The tensors in what was unpickled, and a word on what stands beside them."""
    place, notes = key or "", []
    if key is not None:
        content = _at(content, key, path)
    while isinstance(content, Mapping):
        inside = [name for name, value in content.items() if _holds_tensors(value)]
        usual = [name for name in KEYS if name in inside]
        if not usual and (any(map(_is_tensor, content.values())) or len(inside) != 1):
            break
        name = usual[0] if usual else inside[0]
        place = f"{place}.{name}" if place else str(name)
        beside = [str(other) for other in content if other != name]
        if beside:
            notes.append(f"only what is under `{place}` is read, not {listed(beside)}")
        content = content[name]
    pairs = content.items() if isinstance(content, Mapping) else ()
    tensors = {n: value for n, value in pairs if isinstance(n, str) and _is_tensor(value)}
    rest = [f"{n} ({type(value).__name__})" for n, value in pairs if n not in tensors]
    if not tensors and (rest or not isinstance(content, Mapping)):
        raise CheckpointError(
            f"{path} must hold a state_dict, names with tensors, by itself or under one of "
            f"{', '.join(KEYS[:7])}; found a {type(content).__name__}"
            + (f" with {listed(rest)}. Name the place of the tensors with --key" if rest else "")
        )
    if rest:
        notes.append(f"left out, since a file holds tensors alone: {listed(rest)}")
    return Checkpoint(tensors, notes)


def _at(content: object, key: str, path: str) -> object:
    """What stands under a key with dots; names may have dots themselves."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} must have `{key}`; found a {type(content).__name__} above it"
        )
    if key in content:
        return content[key]
    for name in content:
        if isinstance(name, str) and key.startswith(f"{name}."):
            return _at(content[name], key.removeprefix(f"{name}."), path)
    raise CheckpointError(f"{path} must have `{key}`; found {listed(list(map(str, content)))}")


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _holds_tensors(value: object) -> bool:
    """Whether this is a mapping of names with tensors in it, at whatever depth."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    return any(_is_tensor(inner) or _holds_tensors(inner) for inner in value.values())


def _suffix_of(path: str | os.PathLike[str]) -> str:
    return next(s for s in (*SUFFIXES, INDEX, HEMP) if has_suffix(path, (s,)))


def _reason(error: Exception) -> str:
    """The first sentence of an error, on one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0]
