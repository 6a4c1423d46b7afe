"""`.safetensors` files, a tensor at a time: the library that reads them whole maps all of a file.

A file is the size of a header in 8 bytes, the header in JSON with dtype, shape and place of each
tensor, and the entries of the tensors without gaps, all little-endian.
"""

from __future__ import annotations

import json
import math
import os
import sys
from functools import partial

import torch
from safetensors import safe_open
from torch import Tensor

from hemp_lightning.file.format.storages import DTYPES
from hemp_lightning.file.state import Deferred
from hemp_reader.safetensors import LENGTH, METADATA_KEY, NAMES

_DTYPES = {name: DTYPES[dtype] for dtype, name in NAMES.items()}


def scan_safetensors(path: str | os.PathLike[str]) -> dict[str, Deferred]:
    """The tensors of a file, none of them read yet.

    Raises:
        safetensors.SafetensorError: If the header is broken, or not that of this file.
        ValueError: If a tensor has a dtype that torch has not.
        OSError: If it cannot be read.
    """
    with safe_open(path, framework="pt"):
        pass  # what a header must be is checked by those who know best
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(LENGTH), "little")
        header = json.loads(file.read(size))
    tensors = {}
    for name, entry in header.items():
        if name == METADATA_KEY:
            continue
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"tensor `{name}` has dtype {entry['dtype']}, which torch has not")
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        start = LENGTH + size + entry["data_offsets"][0]
        tensors[name] = Deferred(shape, dtype, partial(_read, os.fspath(path), start, dtype, shape))
    return tensors


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata in the header of a file; empty if it has none."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _read(path: str, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    data = bytearray(math.prod(shape) * dtype.itemsize)
    with open(path, "rb") as file:
        file.seek(start)
        if file.readinto(data) < len(data):
            raise OSError(f"{path} ends too early: it was changed while it was read")
    entries = _swapped(torch.frombuffer(data, dtype=torch.uint8), dtype)
    return entries.view(dtype).reshape(shape)


def _swapped(entries: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes of entries in the order of the file, and back."""
    if sys.byteorder == "little":
        return entries
    word = dtype.itemsize // (2 if dtype.is_complex else 1)
    return entries.view(-1, word).flip(1).reshape(-1)
