"""Bytes of files that keep every bit: `python -m benchmarks.lossless CHECKPOINT...`.

Each `.safetensors` checkpoint is written with `save(lossless=True)`, as it is and with its floats
as bfloat16. Beside it stand zstd (level 19) of the `.safetensors` file, and ZipNN of its tensors,
where `zstandard` and `zipnn` are installed. Every file of ours is read back and compared.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hemp_lightning import load, save

ROW = "| {} | {} | {:,} | {} | {} | {:,} | {:.2f} |"


def zstd_bytes(path: Path) -> str:
    """Size of a file after zstd -19."""
    try:
        zstandard = importlib.import_module("zstandard")
    except ModuleNotFoundError:
        return "not installed"
    return f"{len(zstandard.ZstdCompressor(level=19).compress(path.read_bytes())):,}"


def zipnn_bytes(tensors: dict[str, Tensor]) -> str:
    """Size of all tensors after ZipNN, each by itself, as its own checkpoints hold them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            zipnn = importlib.import_module("zipnn")
        except ModuleNotFoundError:
            return "not installed"
        size = 0
        for tensor in tensors.values():
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            kind = str(tensor.dtype).removeprefix("torch.")
            known = kind in ("float32", "bfloat16", "float16")
            coder = zipnn.ZipNN(bytearray_dtype=kind) if known else None
            size += min(len(data), len(coder.compress(data)) if coder else len(data))
    return f"{size:,}"


def line(name: str, tensors: dict[str, Tensor], folder: Path) -> str:
    """A row of the table."""
    plain, ours = folder / "plain.safetensors", folder / "ours.hemp"
    save_file(tensors, plain)
    begin = time.perf_counter()
    save(tensors, ours, lossless=True)
    seconds = time.perf_counter() - begin
    found = load(ours)
    for key, tensor in tensors.items():
        first, second = (t.contiguous().view(-1).view(torch.uint8) for t in (tensor, found[key]))
        assert found[key].dtype == tensor.dtype and torch.equal(first, second), key
    kind = str(max(tensors.values(), key=torch.numel).dtype).removeprefix("torch.")
    sizes = (plain.stat().st_size, zstd_bytes(plain), zipnn_bytes(tensors), ours.stat().st_size)
    return ROW.format(name, kind, *sizes, seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", type=Path)
    options = parser.parse_args()
    print("| network | dtype | safetensors | zstd -19 | ZipNN | lossless | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for path in options.checkpoints:
        tensors = {n: t if t.dim() else t.reshape(1) for n, t in load_file(path).items()}
        short = {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}
        with tempfile.TemporaryDirectory() as folder:
            print(line(path.stem, tensors, Path(folder)), flush=True)
            print(line(path.stem, short, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
