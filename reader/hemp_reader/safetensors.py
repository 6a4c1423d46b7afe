"""`.safetensors` files, written a tensor at a time.

A file is the size of a header in 8 bytes, the header in JSON with dtype, shape and place of each
tensor, and the entries of the tensors without gaps, all little-endian.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from types import TracebackType
from typing import IO

import numpy as np

from hemp_reader.format.storages import ITEM_BYTES

NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}
"""What such a file calls the dtypes that it holds."""

METADATA = {"format": "pt"}
"""Metadata of a file whose own are not known: transformers asks for these."""

METADATA_KEY = "__metadata__"
LENGTH = 8
"""Bytes of the size of the header."""

_ALIGNMENT = 8


class SafetensorsWriter:
    r"""A new file whose tensors come in any order, one at a time.

    Args:
        path: The file to write; an old one is overwritten.
        tensors: dtype, by name, and shape of each tensor, by name.
        metadata: What else the header says.

    Raises:
        ValueError: If the format cannot hold a dtype or a name.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = f"{folder.name}/x.safetensors"
        >>> with SafetensorsWriter(path, {"b": ("int16", (2,))}) as writer:
        ...     writer.write("b", np.array([3, 4], np.uint16))
        >>> open(path, "rb").read()[-4:]
        b'\x03\x00\x04\x00'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        for name, (dtype, _) in tensors.items():
            if dtype not in NAMES:
                raise ValueError(
                    f"a .safetensors file cannot hold this: tensor `{name}` of dtype {dtype}"
                )
            if name == METADATA_KEY:
                raise ValueError(
                    f"a .safetensors file cannot hold this: a tensor of the name {name}"
                )
        self._path = path
        self._places: dict[str, int] = {}
        header: dict[str, object] = {METADATA_KEY: dict(metadata)} if metadata else {}
        end = 0
        # The widest first, so that each lies on a multiple of its own width.
        for name in sorted(tensors, key=lambda name: -ITEM_BYTES[tensors[name][0]]):
            dtype, shape = tensors[name]
            self._places[name] = end
            size = math.prod(shape) * ITEM_BYTES[dtype]
            header[name] = {
                "dtype": NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [end, end + size],
            }
            end += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._head = len(text).to_bytes(LENGTH, "little") + text
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

    def write(self, name: str, words: np.ndarray) -> None:
        """Write a tensor.

        Args:
            name: One of the names that were said.
            words: Its entries as native unsigned integers, flat, see `Content.words`.
        """
        self._file.seek(len(self._head) + self._places[name])
        self._file.write(words.astype(words.dtype.newbyteorder("<"), copy=False).data)
