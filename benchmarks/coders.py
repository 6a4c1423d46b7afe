"""Every coder on a fixed corpus of index sets: bytes, and how fast it codes and decodes.

    python -m benchmarks.coders --checkpoints ../shared/data/checkpoints [--nncodec FOLDER]
        [--indices more.npz ...] [--only file context fast] [--no-others] > coders.md

The corpus is that of `benchmarks/index_sets.py`. `file` is what `hemp_lightning.save` takes by
default: the context coder, or a simpler one where that is shorter. DeepCABAC is measured if
`nncodec` is installed, or unpacked and built in the folder that `--nncodec` names; Zstandard if
`zstandard` is. Speeds are weights a second of CPU time on one core, compiled loops warm.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.machinery
import importlib.util
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.index_sets import IndexSet, index_sets
from hemp_lightning.coding import get_coder
from hemp_lightning.coding.context.warm_up import warm_up
from hemp_lightning.entropy.formula import index_entropy
from hemp_lightning.file.encode import Options
from hemp_reader.coding import decoder_by_id

OURS = ("file", "context", "fast", "tuples 1", "tuples 2", "tuples 3", "lzma", "bz2")
TOLERANCE = 1.01  # of the smallest other coder, on each set
RANDOM_TOLERANCE = 1.005  # of the entropy, on random sets


class FileCoder:
    """The coders that `save` chooses from, for each tensor anew."""

    def __init__(self) -> None:
        self.options = Options("context", 2, "row_major", "steps")

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        payload, number = self.options.encode(indices.astype(np.uint8, copy=False), num_levels)
        return bytes([number]) + payload

    def decode(self, data: bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        return decoder_by_id(data[0]).decode(data[1:], shape, num_levels)


class ZstdCoder:
    """Zstandard at level 22, an index a byte."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        return self.module.compress(indices.astype(np.uint8).tobytes(), 22)

    def decode(self, data: bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        return np.frombuffer(self.module.decompress(data), np.uint8).reshape(shape)


class DeepCabac:
    """One stream a tensor, in the best of its orientations and options; only that one is timed."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.off = (module.HdspMode.AlwaysOff, np.array((0, 0), np.int8))
        self.best: tuple[Any, ...] = ()

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        return self._run(*self.best)

    def find(self, indices: np.ndarray, num_levels: int) -> None:
        """Try everything, so that `encode` and `decode` do the best."""
        centre = np.bincount(indices.reshape(-1), minlength=num_levels).argmax()
        values = indices.astype(np.int32) - np.int32(centre)
        axes = [tuple(range(values.ndim))]
        if values.ndim >= 2:
            axes.append((1, 0, *range(2, values.ndim)))
        if values.ndim >= 3:
            axes += [(order[0], *order[2:], order[1]) for order in axes]
        tries = []
        for order in axes:
            view = np.ascontiguousarray(values.transpose(order))
            for adapted in (0, 1):
                for skip in (0, 1) if values.ndim >= 2 else (0,):
                    size = len(self._run(view, adapted, skip, order, centre))
                    tries.append((size, view, adapted, skip, order, centre))
        self.best = min(tries, key=lambda found: found[0])[1:]

    def _run(self, view: np.ndarray, adapted: int, skip: int, *_: Any) -> bytes:
        silent = (~view.reshape(len(view), -1).any(1)).astype(np.int32)
        encoder = self.module.Encoder()
        encoder.initCtxModels(10, adapted)
        encoder.encodeLayer(view, 0, 0, 1, 0, skip, silent, *self.off, 0, 0)
        return bytes(encoder.finish())

    def decode(self, data: bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        view, _, _, order, centre = self.best
        decoder = self.module.Decoder()
        decoder.setStream(np.frombuffer(data, np.uint8))
        decoder.initCtxModels(10)
        found = np.zeros(view.shape, np.int32)
        decoder.decodeLayer(found, 0, 0, 1, 0, *self.off, 0, 0)
        return found.transpose(np.argsort(order)) + centre


def deep_cabac(folder: Path | None) -> Any | None:
    """The compiled module of `nncodec`, without the packages that its Python code imports."""
    if folder is None:
        spec = importlib.util.find_spec("nncodec")
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent
    found = list((folder / "extensions").glob("deepCABAC*.so"))
    if not found:
        return None
    loader = importlib.machinery.ExtensionFileLoader("deepCABAC", str(found[0]))
    spec = importlib.util.spec_from_loader("deepCABAC", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Timed:
    """A coder: sizes, and the time it took, with every tensor decoded again."""

    def __init__(self, coder: Any) -> None:
        self.coder = coder
        self.encode_seconds = self.decode_seconds = 0.0
        self.weights = 0

    def size(self, indices: np.ndarray, num_levels: int) -> int:
        """Bytes of the payload."""
        if isinstance(self.coder, DeepCabac):
            self.coder.find(indices, num_levels)
        start = time.process_time()
        data = self.coder.encode(indices, num_levels)
        middle = time.process_time()
        decoded = self.coder.decode(data, indices.shape, num_levels)
        self.decode_seconds += time.process_time() - middle
        self.encode_seconds += middle - start
        self.weights += indices.size
        if not np.array_equal(decoded, indices):
            raise RuntimeError(f"{type(self.coder).__name__} does not decode what it encoded")
        return len(data) - isinstance(self.coder, FileCoder)

    def speeds(self) -> str:
        """Millions of weights a second, encoding and decoding, as cells of a table."""
        seconds = self.encode_seconds, self.decode_seconds
        return " | ".join(f"{self.weights / second / 1e6:.1f}" for second in seconds)


def ours(name: str) -> Timed:
    """A coder of this package by its name in the table."""
    if name == "file":
        return Timed(FileCoder())
    kind, _, order = name.partition(" ")
    return Timed(get_coder(kind, order=int(order)) if order else get_coder(kind))


def entropy_size(indices: np.ndarray, num_levels: int) -> int:
    """Zero-order entropy of the tensor: the floor of a coder without memory or tables."""
    bits = index_entropy(torch.from_numpy(indices.astype(np.int64)), num_levels, 1)
    return int(np.ceil(float(bits) * indices.size / 8))


def shortfalls(index_set: IndexSet, row: dict[str, int]) -> list[str]:
    """What the file takes too much of on a set, in words."""
    found = []
    for name, size in row.items():
        if name != "entropy 0" and row["file"] > TOLERANCE * size:
            found.append(f"{index_set.name}: {row['file'] / size:.3f} of {name}")
    if index_set.random and row["file"] > RANDOM_TOLERANCE * row["entropy 0"]:
        found.append(f"{index_set.name}: {row['file'] / row['entropy 0']:.4f} of the entropy")
    return found


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=Path, help="folder with *.safetensors")
    parser.add_argument("--nncodec", type=Path, help="folder of the built package")
    parser.add_argument("--indices", type=Path, nargs="*", default=[], help="more sets, .npz")
    parser.add_argument("--only", nargs="*", default=OURS, choices=OURS, help="these coders")
    parser.add_argument("--no-others", action="store_true", help="not those of other packages")
    arguments = parser.parse_args()

    warm_up()
    coders = {name: ours(name) for name in arguments.only}
    if not arguments.no_others:
        if importlib.util.find_spec("zstandard") is not None:
            coders["zstd -22"] = Timed(ZstdCoder(importlib.import_module("zstandard")))
        module = deep_cabac(arguments.nncodec)
        if module is not None:
            coders["DeepCABAC"] = Timed(DeepCabac(module))
    columns = [*coders, "entropy 0"]

    print("# Coders on a fixed corpus of index sets\n")
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"{platform.machine()} {platform.system()}.\n`python {' '.join(sys.argv)}`\n\nBytes:\n"
    )
    print("| set | weights | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * (len(columns) + 1))
    total = dict.fromkeys(columns, 0)
    short, excess = [], []
    for index_set in index_sets(arguments.checkpoints, arguments.indices):
        row = {}
        for name, coder in coders.items():
            row[name] = sum(coder.size(*tensor) for tensor in index_set.tensors)
        row["entropy 0"] = sum(entropy_size(*tensor) for tensor in index_set.tensors)
        for name, size in row.items():
            total[name] += size
        if "file" in row:
            short += shortfalls(index_set, row)
            if index_set.random:
                share = row["file"] / row["entropy 0"] - 1
                excess.append(f"{share:.3%} ({index_set.name})")
        cells = " | ".join(f"{size:,}" for size in row.values())
        print(f"| {index_set.name} | {index_set.num_weights:,} | {cells} |", flush=True)
    print("| **all** | | " + " | ".join(f"**{value:,}**" for value in total.values()) + " |")
    for name in ("file", "fast"):
        if name in total:
            shares = " | ".join(f"{total[name] / value:.3f}" for value in total.values())
            print(f"| {name} / this | | {shares} |")
    if "file" in total:
        print(f"\nSets on which the file is more than 1 % above a coder: {'; '.join(short) or 0}.")
        print(f"Above the entropy on random indices: {', '.join(excess)}.")
    print("\nMillions of weights a second of CPU time, over the whole corpus:\n")
    print("| coder | encode | decode |\n|---|---:|---:|")
    for name, coder in coders.items():
        print(f"| {name} | {coder.speeds()} |")


if __name__ == "__main__":
    main()
