"""Every coder on a fixed corpus of index sets: bytes, and how fast it codes and decodes.

    python -m benchmarks.coders --checkpoints ../shared/data/checkpoints [--nncodec FOLDER]
        [--indices more.npz ...] [--large] [--only context fast] > benchmarks/results/coders.md

The corpus: the weights of pretrained CIFAR ResNets, quantized after training (uniform and
Lloyd-Max levels), LeNet-5 indices trained with the entropy term (`benchmarks/corpus`), random and
tiny tensors, and what `--indices` adds: arrays of indices by name, and `num_levels`. DeepCABAC is
measured if `nncodec` is installed, or unpacked and built in the folder that `--nncodec` names.
Speeds are weights a second of CPU time on one core, compiled loops warm.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.machinery
import importlib.util
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from hemp_lightning.coding import Coder, get_coder
from hemp_lightning.coding.context import ContextCoder, warm_up
from hemp_lightning.coding.context_fast import FastCoder
from hemp_lightning.entropy import index_entropy
from hemp_lightning.quantizers import get_quantizer

CORPUS = Path(__file__).parent / "corpus"
Tensors = dict[str, np.ndarray]
Size = Callable[[np.ndarray, int], int]


def quantized(path: Path, quantizer: str, num_levels: int) -> Tensors:
    """Indices of all weights with two or more axes, a codebook for each tensor."""
    sets = {}
    for name, array in load_file(path).items():
        if array.ndim >= 2:
            weights = torch.from_numpy(array.astype(np.float32))
            codebook = get_quantizer(quantizer, num_levels).fit(weights)
            sets[name] = codebook.assign(weights).numpy().astype(np.uint8)
    return sets


def stored(path: Path) -> tuple[Tensors, int]:
    """Indices and their number of levels from an `.npz` file."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "num_levels"}
        return arrays, int(file["num_levels"])


def index_sets(checkpoints: Path | None, more: list[Path]) -> Iterator[tuple[str, Tensors, int]]:
    """Name, indices by tensor, and number of levels of each set of the corpus."""
    if checkpoints is not None:
        for path in sorted(checkpoints.glob("*.safetensors")):
            for quantizer in ("uniform", "lloyd_max"):
                for num_levels in (4, 8, 16, 64):
                    name = f"{path.stem.split('_')[0]} {quantizer} {num_levels}"
                    yield name, quantized(path, quantizer, num_levels), num_levels
    for path in [*sorted(CORPUS.glob("*.npz")), *more]:
        yield path.stem, *stored(path)
    rng = np.random.default_rng(0)
    yield "random uniform", {"a": rng.integers(0, 16, (400, 500))}, 16
    yield "random binomial", {"a": rng.binomial(6, 0.1, (64, 64, 7, 7))}, 7
    tiny = {str(n): np.where(rng.random(n) < 0.1, 5, 3) for n in (10, 20, 50, 500)}
    yield "tiny", tiny | {"silent": np.full(10, 3)}, 7


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


def deep_cabac_size(module: Any, indices: np.ndarray, num_levels: int) -> int:
    """Bytes of the best orientation, with and without skipped rows and adapted rates."""
    centre = np.bincount(indices.reshape(-1), minlength=num_levels).argmax()
    values = indices.astype(np.int32) - np.int32(centre)
    views = [values]
    if values.ndim >= 2:
        views.append(values.swapaxes(0, 1))
    if values.ndim >= 3:
        views += [np.moveaxis(view, 1, -1) for view in views]
    sizes = []
    for view in views:
        view = np.ascontiguousarray(view)
        silent = (~view.reshape(len(view), -1).any(1)).astype(np.int32)
        for adapted in (0, 1):
            for skip in (0, 1) if values.ndim >= 2 else (0,):
                encoder = module.Encoder()
                encoder.initCtxModels(10, adapted)
                off = (module.HdspMode.AlwaysOff, np.array((0, 0), np.int8))
                encoder.encodeLayer(view, 0, 0, 1, 0, skip, silent, *off, 0, 0)
                sizes.append(len(bytes(encoder.finish())))
    return min(sizes)


def zstd_size() -> Size | None:
    """Zstandard at level 22, if a binding is installed."""
    if importlib.util.find_spec("zstandard") is None:
        return None
    import zstandard

    return lambda indices, _: len(zstandard.compress(indices.astype(np.uint8).tobytes(), 22))


def entropy_size(indices: np.ndarray, num_levels: int) -> int:
    """Zero-order entropy of the tensor: the floor of a coder without memory or tables."""
    bits = index_entropy(torch.from_numpy(indices.astype(np.int64)), num_levels, 1)
    return int(np.ceil(float(bits) * indices.size / 8))


class Timed:
    """A coder of this package: sizes, and the time it took, with every tensor decoded again."""

    def __init__(self, coder: Coder) -> None:
        self.coder = coder
        self.encode_seconds = self.decode_seconds = 0.0
        self.weights = 0

    def __call__(self, indices: np.ndarray, num_levels: int) -> int:
        """Bytes of the payload."""
        start = time.process_time()
        data = self.coder.encode(indices, num_levels)
        middle = time.process_time()
        decoded = self.coder.decode(data, indices.shape, num_levels)
        self.decode_seconds += time.process_time() - middle
        self.encode_seconds += middle - start
        self.weights += indices.size
        if not np.array_equal(decoded, indices):
            raise RuntimeError(f"{self.coder.name} does not decode what it encoded")
        return len(data)


def large(coder: Timed) -> str:
    """Speed and memory on a network of 13 million weights, 16 levels, filters of unlike scale."""
    rng = np.random.default_rng(0)
    shapes = [(64, 64, 3, 3)] * 4 + [(128, 128, 3, 3)] * 4 + [(256, 256, 3, 3)] * 4
    shapes += [(512, 512, 3, 3)] * 4 + [(1000, 512)]
    edges = np.linspace(-1.5, 1.5, 15)
    size = 0
    for shape in shapes:
        scale = rng.gamma(4, 0.25, (shape[0], *[1] * (len(shape) - 1)))
        indices = np.searchsorted(edges, rng.laplace(0, 0.5, shape) * scale)
        size += coder(indices.astype(np.uint8), 16)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{coder.coder.name} on {coder.weights:,} weights, 16 levels: {size:,} bytes, encodes "
        f"{coder.weights / coder.encode_seconds / 1e6:.1f} and decodes "
        f"{coder.weights / coder.decode_seconds / 1e6:.1f} million a second; the process took "
        f"{memory:.0f} MiB at most."
    )


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=Path, help="folder with *.safetensors")
    parser.add_argument("--nncodec", type=Path, help="folder of the built package")
    parser.add_argument("--indices", type=Path, nargs="*", default=[], help="more sets, .npz")
    parser.add_argument("--large", action="store_true", help="also 13 million weights")
    parser.add_argument("--only", nargs="*", help="these coders of the package and no other")
    arguments = parser.parse_args()

    warm_up()
    timed = {"context": Timed(ContextCoder())}
    timed["fast"] = Timed(FastCoder())
    timed |= {f"tuples {order}": Timed(get_coder("tuples", order=order)) for order in (1, 2, 3)}
    timed |= {name: Timed(get_coder(name)) for name in ("lzma", "bz2")}
    if arguments.only:
        timed = {name: timed[name] for name in arguments.only}
    sizes: dict[str, Size] = dict(timed)
    sizes["entropy 0"] = entropy_size
    zstd, module = zstd_size(), deep_cabac(arguments.nncodec)
    if arguments.only:
        zstd = module = None
    if zstd is not None:
        sizes["zstd -22"] = zstd
    if module is not None:
        sizes["DeepCABAC"] = lambda indices, levels: deep_cabac_size(module, indices, levels)

    print("# Coders on a fixed corpus of index sets\n")
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"{platform.machine()} {platform.system()}.\n`python {' '.join(sys.argv)}`\n\nBytes:\n"
    )
    print("| set | weights | " + " | ".join(sizes) + " |")
    print("|---|" + "---:|" * (len(sizes) + 1))
    total = dict.fromkeys(sizes, 0)
    for name, tensors, num_levels in index_sets(arguments.checkpoints, arguments.indices):
        row = {}
        for coder, size in sizes.items():
            row[coder] = sum(size(indices, num_levels) for indices in tensors.values())
            total[coder] += row[coder]
        weights = sum(indices.size for indices in tensors.values())
        cells = " | ".join(f"{value:,}" for value in row.values())
        print(f"| {name} | {weights:,} | {cells} |", flush=True)
    print("| **all** | | " + " | ".join(f"**{value:,}**" for value in total.values()) + " |")
    if "context" in total:
        shares = " | ".join(f"{total['context'] / value:.3f}" for value in total.values())
        print(f"| context / this | | {shares} |")
    print("\nMillions of weights a second, over the whole corpus:\n")
    print("| coder | encode | decode |\n|---|---:|---:|")
    for name, coder in timed.items():
        encode, decode = coder.encode_seconds, coder.decode_seconds
        print(
            f"| {name} | {coder.weights / encode / 1e6:.1f} | {coder.weights / decode / 1e6:.1f} |"
        )
    if arguments.large:
        for speeding in (Timed(FastCoder()), Timed(ContextCoder())):
            print(f"\n{large(speeding)}")


if __name__ == "__main__":
    main()
