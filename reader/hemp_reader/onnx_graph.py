"""An ONNX graph without its weights, as a file carries it: made, packed, and filled again.

The graph is the model's own protobuf, in which the initializers that the file codes have lost their
data. It is one uint8 tensor, `GRAPH`, packed as the string `KEY` of the metadata says. Nothing here
needs PyTorch.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from hemp_reader.errors import HempFileError
from hemp_reader.replacing import replacing

if TYPE_CHECKING:
    import onnx

GRAPH = "hemp.onnx.graph"
"""Name of the tensor that holds the packed graph."""

KEY, PACKED = "hemp.onnx", "lzma"
"""Name in the metadata of a file that holds a graph, and what stands there."""

DATA = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
"""Fields of a TensorProto that hold its entries."""

_MEMORY = 2**26  # bytes that unpacking may take for itself
_ALIGNED, _LARGE = 4096, 2**16  # where large tensors begin in a file of external data


def need_onnx() -> Any:
    """The package `onnx`.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise ValueError(
            "files that end in .onnx need the package 'onnx'; pip install onnx"
        ) from None
    return onnx


def pack(model: onnx.ModelProto) -> bytes:
    """The bytes that `GRAPH` holds."""
    plain = model.SerializeToString(deterministic=True)
    return lzma.compress(plain, lzma.FORMAT_ALONE, preset=6 | lzma.PRESET_EXTREME)


def unpack(packed: bytes, max_bytes: int) -> onnx.ModelProto:
    """The graph of a file.

    Args:
        packed: See `pack`.
        max_bytes: The most bytes that it may have unpacked.

    Raises:
        HempFileError: If it is none, or larger.
    """
    onnx = need_onnx()
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY)
    try:
        plain = unpacker.decompress(packed, max_bytes + 1)
        if len(plain) > max_bytes:
            raise _broken(f"at most `max_bytes`={max_bytes} bytes", "more")
        if not unpacker.eof or unpacker.unused_data:
            raise _broken("one LZMA stream", f"{len(plain)} bytes of a broken one")
        return onnx.ModelProto.FromString(plain)
    except (lzma.LZMAError, ValueError) as error:
        raise _broken("an ONNX graph", " ".join(str(error).split()) or "none") from error
    except Exception as error:  # protobuf has errors of its own, by its version
        if type(error).__name__ != "DecodeError":
            raise
        raise _broken("an ONNX graph", "bytes that are no protobuf") from error


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs behind the node that has them."""
    yield from _nodes(model.graph.node)
    for function in model.functions:
        yield from _nodes(function.node)


def tensors_of(model: onnx.ModelProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """All tensors: initializers by name, those of attributes and of repeated names by None."""
    names = set()
    graphs = [model.graph, *(graph for node in nodes_of(model) for graph in _subgraphs(node))]
    for graph in graphs:
        for tensor in graph.initializer:
            name = tensor.name if tensor.name not in names else None
            names.add(tensor.name)
            yield name, tensor
    for node in nodes_of(model):
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                if tensor.data_type:
                    yield None, tensor


def is_empty(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor has no data where it has entries, so that a file must give them."""
    return (
        all(not getattr(tensor, field) for field in (*DATA, "string_data")) and 0 not in tensor.dims
    )


def fill(model: onnx.ModelProto, entries: Mapping[str, tuple[tuple[int, ...], bytes]]) -> None:
    """Put data back where they were taken from.

    Args:
        model: A graph without them; it is changed.
        entries: Shape and little-endian bytes of each initializer, by name.

    Raises:
        HempFileError: If the graph has no place for one of them, lacks one, or has another shape.
    """
    left = dict(entries)
    for name, tensor in tensors_of(model):
        if not is_empty(tensor):
            continue
        if name not in left:
            raise _broken(f"a tensor for the initializer `{tensor.name}`", "none")
        shape, data = left.pop(name)
        if tuple(tensor.dims) != shape:
            raise _broken(f"shape {tuple(tensor.dims)} of `{name}`", f"shape {shape}")
        size = _bytes_of(tensor)
        if len(data) != size:
            raise _broken(f"{size} bytes of `{name}`", f"{len(data)} bytes")
        tensor.raw_data = data
    if left:
        raise _broken("initializers for all tensors", f"none for `{next(iter(left))}`")


def write_model(model: onnx.ModelProto, output: str | os.PathLike[str]) -> None:
    """Write a model, and beside it the files of external data that its tensors name.

    Raises:
        FileExistsError: If a file of external data is there already.
        ValueError: If one would lie outside of the folder, or the model needs one and has none.
        OSError: If a file cannot be written.
    """
    folder = Path(output).parent
    outside: dict[str, list[onnx.TensorProto]] = {}
    for _, tensor in tensors_of(model):
        if tensor.data_location == tensor.EXTERNAL:
            outside.setdefault(_location(tensor), []).append(tensor)
    for location in outside:
        if (folder / location).exists() or (folder / location) == Path(output):
            raise FileExistsError(
                f"`output` must lie in a folder without {location}, the file of external data; "
                f"found one in {folder}"
            )
    with ExitStack() as files:
        temporary = files.enter_context(replacing(output))
        for location, tensors in outside.items():
            (folder / location).parent.mkdir(parents=True, exist_ok=True)
            _write_outside(files.enter_context(replacing(folder / location)), location, tensors)
        temporary.write_bytes(_serialized(model))


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # of protobuf, by its version
        raise ValueError(
            "a model without external data must have less than 2 GiB; found a larger one"
        ) from error


def _write_outside(path: Path, location: str, tensors: list[onnx.TensorProto]) -> None:
    with path.open("wb") as file:
        for tensor in tensors:
            if len(tensor.raw_data) >= _LARGE:
                file.write(bytes(-file.tell() % _ALIGNED))
            place = {"location": location, "offset": file.tell(), "length": len(tensor.raw_data)}
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            set_place(tensor, place)


def set_place(tensor: onnx.TensorProto, place: Mapping[str, object]) -> None:
    """Say where in a file of external data the entries of a tensor are."""
    del tensor.external_data[:]
    tensor.data_location = tensor.EXTERNAL
    for key, value in place.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def _location(tensor: onnx.TensorProto) -> str:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    path = PurePosixPath(location)
    if not location or path.is_absolute() or ".." in path.parts or "\\" in location:
        raise ValueError(
            f"external data of `{tensor.name}` must lie in the folder of the model; found "
            f"{location!r}"
        )
    return location


def _bytes_of(tensor: onnx.TensorProto) -> int:
    onnx = need_onnx()
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError, TypeError) as error:
        raise _broken(f"a known dtype of `{tensor.name}`", str(tensor.data_type)) from error
    return int(np.prod(list(tensor.dims), dtype=object)) * dtype.itemsize


def _nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _nodes(graph.node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _broken(expected: str, found: str) -> HempFileError:
    return HempFileError(None, 0, f"{expected} in its tensor `{GRAPH}`", found)
