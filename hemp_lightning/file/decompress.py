"""From a `.hemp` file to a float checkpoint, all or nothing."""

from __future__ import annotations

import os

import torch

from hemp_lightning.file.checkpoints import SUFFIXES, has_suffix, same_file
from hemp_lightning.file.load import load
from hemp_lightning.file.onnx_files import SUFFIX as ONNX
from hemp_reader.converting import convert
from hemp_reader.replacing import replacing


def decompress(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
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
        base: See `load`.
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
    if not has_suffix(output, (".safetensors", ONNX)):
        state = load(path, base=base, max_bytes=max_bytes, threads=threads)
        with replacing(output) as temporary:
            torch.save(state, temporary)
        return len(state)
    return convert(path, output, base=base, max_bytes=max_bytes, threads=threads)
