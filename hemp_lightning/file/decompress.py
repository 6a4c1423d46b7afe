"""From a `.hemp` file to a float checkpoint, all or nothing."""

from __future__ import annotations

import os

import torch

from hemp_lightning.file.checkpoints import SUFFIXES, has_suffix, same_file
from hemp_lightning.file.format.directory import ALIAS
from hemp_lightning.file.format.files import opened, replacing
from hemp_lightning.file.load import decoded, load
from hemp_lightning.file.onnx_files import SUFFIX as ONNX
from hemp_lightning.file.onnx_files import write_onnx
from hemp_lightning.file.safetensors_files import SafetensorsWriter

METADATA = {"format": "pt"}
"""Metadata of a `.safetensors` file whose own are not known: transformers asks for these."""


def decompress(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    threads: int | None = None,
) -> int:
    """Decode a `.hemp` file into a checkpoint, all or nothing.

    A `.safetensors` file is written tensor by tensor, and tied tensors stand in it twice, as that
    format knows no sharing. The other forms need all tensors in memory. An `.onnx` file takes a
    file that was made of one, see `save_onnx`.

    Args:
        path: The `.hemp` file.
        output: The checkpoint, in the form that its suffix says.
        max_bytes: See `hemp_lightning.load`.
        threads: See `hemp_lightning.load`; so many tensors are in memory at a time.

    Returns:
        Number of tensors.

    Raises:
        HempFileError: As `hemp_lightning.load`.
        ValueError: If the suffix is none of `SUFFIXES` nor `.onnx`, `output` is `path`, or the
            form cannot hold a tensor.
        OSError: If a file cannot be read or written.
    """
    if not has_suffix(output, (*SUFFIXES, ONNX)):
        words = ", ".join((*SUFFIXES, ONNX))
        raise ValueError(f"FILE must end in {words}; found {os.fspath(output)}")
    if same_file(path, output):
        raise ValueError(f"`output` must be another file than the input; found {output} for both")
    if has_suffix(output, (ONNX,)):
        return write_onnx(path, output, max_bytes=max_bytes, threads=threads)
    if not has_suffix(output, (".safetensors",)):
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
        with (
            replacing(output) as temporary,
            SafetensorsWriter(temporary, tensors, {**METADATA, **file.metadata}) as writer,
        ):
            for name, tensor in decoded(file, threads):
                for each in names[name]:
                    writer.write(each, tensor)
        return len(records)
