"""`.safetensors` files, a tensor at a time: the library that reads them whole maps all of a file.

A file is the size of a header in 8 bytes, the header in JSON with dtype, shape and place of each
tensor, and the entries of the tensors without gaps, all little-endian.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import IO

import torch
from safetensors import safe_open
from torch import Tensor

from hemp_lightning.file.state import Deferred

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_LENGTH = 8
_ALIGNMENT = 8


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
        size = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(size))
    tensors = {}
    for name, entry in header.items():
        if name == _METADATA:
            continue
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"tensor `{name}` has dtype {entry['dtype']}, which torch has not")
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        start = _LENGTH + size + entry["data_offsets"][0]
        tensors[name] = Deferred(shape, dtype, partial(_read, os.fspath(path), start, dtype, shape))
    return tensors


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata in the header of a file; empty if it has none."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


class SafetensorsWriter:
    """A new file whose tensors come in any order, one at a time.

    Args:
        path: The file to write; an old one is overwritten.
        tensors: dtype and shape of each tensor, by name.
        metadata: What else the header says.

    Raises:
        ValueError: If the format cannot hold a dtype or a name.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = f"{folder.name}/x.safetensors"
        >>> with SafetensorsWriter(path, {"b": (torch.int64, (2,))}) as writer:
        ...     writer.write("b", torch.tensor([3, 4]))
        >>> scan_safetensors(path)["b"].read()
        tensor([3, 4])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        for name, (dtype, _) in tensors.items():
            if dtype not in _NAMES:
                raise ValueError(
                    f"a .safetensors file cannot hold this: tensor `{name}` of dtype {dtype}"
                )
            if name == _METADATA:
                raise ValueError(
                    f"a .safetensors file cannot hold this: a tensor of the name {name}"
                )
        self._path = path
        self._places: dict[str, int] = {}
        header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
        end = 0
        # The widest first, so that each lies on a multiple of its own width.
        for name in sorted(tensors, key=lambda name: -tensors[name][0].itemsize):
            dtype, shape = tensors[name]
            self._places[name] = end
            size = math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": _NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [end, end + size],
            }
            end += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._head = len(text).to_bytes(_LENGTH, "little") + text
        self._file: IO[bytes]

    def __enter__(self) -> SafetensorsWriter:
        self._file = open(self._path, "wb")
        self._file.write(self._head)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, which must be of the dtype and shape that were said, on the CPU."""
        self._file.seek(len(self._head) + self._places[name])
        if tensor.numel():
            entries = tensor.contiguous().reshape(-1).view(torch.uint8)
            self._file.write(_swapped(entries, tensor.dtype).numpy().data)


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
