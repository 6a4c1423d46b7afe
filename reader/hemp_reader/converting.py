"""From a `.hemp` file to files of other programs, all or nothing."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hemp_reader.errors import HempFileError, located
from hemp_reader.format.directory import ALIAS, Record
from hemp_reader.format.files import HempFile, default_max_bytes
from hemp_reader.format.sections import Content
from hemp_reader.format.storages import array_of
from hemp_reader.onnx_graph import GRAPH, KEY, PACKED, fill, unpack, write_model
from hemp_reader.parallel import count_threads, in_order
from hemp_reader.reading import contents_of, open_file
from hemp_reader.replacing import replacing
from hemp_reader.safetensors import METADATA, SafetensorsWriter

SUFFIXES = (".npz", ".safetensors", ".onnx")
"""What files can be made."""


def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    max_bytes: int | None = None,
    threads: int | None = None,
) -> int:
    """Decode a `.hemp` file into another one, tensor by tensor.

    Neither form knows tied tensors: each of their names has a copy. A `.safetensors` file holds the
    bits of every dtype that it has; in an `.npz` file bfloat16 and float8 are float32 numbers. An
    `.onnx` file takes a file that was made of one; its external data are written beside it.

    Args:
        path: The `.hemp` file.
        output: The file to write, in the form that its suffix says. An old one stays if something
            goes wrong.
        base: See `load`.
        max_bytes: See `load`.
        threads: See `load`; so many tensors are in memory at a time.

    Returns:
        Number of tensors, the graph of an ONNX model not counted.

    Raises:
        HempFileError: As `load`; or the graph of a file does not fit its tensors.
        ValueError: If the suffix is none of `SUFFIXES`, `output` is `path`, or the form cannot
            hold a tensor; of `.onnx` also if the file holds no graph, `onnx` is not installed, or
            external data would lie outside of the folder.
        OSError: If a file cannot be read or written, or one of external data is there already.
    """
    suffix = os.path.splitext(os.fspath(output))[1].lower()
    if suffix not in SUFFIXES:
        words = ", ".join(SUFFIXES)
        raise ValueError(f"`output` must end in one of {words}; found {os.fspath(output)}")
    if os.path.exists(output) and os.path.samefile(path, output):
        raise ValueError(f"`output` must be another file than the input; found {output} for both")
    if suffix == ".onnx":
        with open_file(path, max_bytes, base) as file:
            return _write_onnx(file, path, output, max_bytes, count_threads(threads))
    with open_file(path, max_bytes, base) as file, replacing(output) as temporary:
        write = _write_arrays if suffix == ".npz" else _write_safetensors
        write(file, temporary, count_threads(threads))
        return len(file.records)


def _write_safetensors(file: HempFile, path: Path, threads: int) -> None:
    names = _names(file.records)
    tensors = {record.name: (record.storage.dtype, record.shape) for record in file.records}
    with SafetensorsWriter(path, tensors, {**METADATA, **file.metadata}) as writer:
        for record, words in _decoded(file, threads):
            for name in names[record.name]:
                writer.write(name, words)


def _write_arrays(file: HempFile, path: Path, threads: int) -> None:
    names = _names(file.records)
    with zipfile.ZipFile(path, "w") as archive:
        for record, words in _decoded(file, threads):
            array = array_of(words, record.storage.dtype, record.shape)
            for name in names[record.name]:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _write_onnx(
    file: HempFile,
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    max_bytes: int | None,
    threads: int,
) -> int:
    packed = file.metadata.get(KEY)
    if packed is None:
        raise ValueError(
            f"FILE must hold an ONNX graph; found tensors alone in {os.fspath(path)}. "
            "`hemp export` makes a graph from the network's code"
        )
    names = _names(file.records)
    entries, graph = {}, None
    for record, words in _decoded(file, threads):
        if record.name == GRAPH and record.storage.dtype == "uint8":
            graph = words.tobytes()
            continue
        for name in names[record.name]:
            entries[name] = record.shape, words.tobytes()
    limit = default_max_bytes(file.size) if max_bytes is None else max_bytes
    with located(0, os.fspath(path)):
        if packed != PACKED or graph is None:
            raise HempFileError(None, 0, f"a graph packed with {PACKED} in `{GRAPH}`", packed)
        model = unpack(graph, limit)
        fill(model, entries)
    write_model(model, output)
    return len(entries)


def _decoded(file: HempFile, threads: int) -> Iterator[tuple[Record, np.ndarray]]:
    """Records of an open file that are no alias, each with the words of its tensor."""

    def work(content: Content) -> tuple[Record, np.ndarray]:
        return content.record, content.words()

    return in_order(work, contents_of(file), threads)


def _names(records: list[Record]) -> dict[str, list[str]]:
    """All names of each tensor, by its first one."""
    names = {record.name: [record.name] for record in records if record.kind != ALIAS}
    for record in records:
        if record.kind == ALIAS:
            names[records[record.target].name].append(record.name)
    return names
