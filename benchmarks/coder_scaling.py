"""Speed, threads and memory of the coders on the 11 million weights of a ResNet-18.

    python -m benchmarks.coder_scaling [--threads 1 2] [--repeat 3]

16 levels, Laplacian weights in filters of unlike scale. Speeds are the best of the repetitions, in
weights a second of wall time; threads share the tensors, the largest first. Memory is the peak of
the process above what it held before (Linux only), and as a multiple of the largest tensor's
float32 weights.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.coders import FileCoder
from benchmarks.memory import peak_above
from hemp_lightning import load, save
from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.coding.context.fast_coder import FastCoder
from hemp_lightning.coding.context.warm_up import warm_up

NUM_LEVELS = 16
LEVELS = np.linspace(-2, 2, NUM_LEVELS)


def shapes() -> list[tuple[int, ...]]:
    """Weights of a ResNet-18 for CIFAR-10."""
    found: list[tuple[int, ...]] = [(64, 3, 3, 3)] + [(64, 64, 3, 3)] * 4
    for width in (128, 256, 512):
        found += [(width, width // 2, 3, 3), (width, width, 3, 3), (width, width // 2, 1, 1)]
        found += [(width, width, 3, 3)] * 2
    return [*found, (10, 512)]


def network() -> list[np.ndarray]:
    """Weights, float32, by tensor."""
    rng = np.random.default_rng(0)
    tensors = []
    for shape in shapes():
        scale = rng.gamma(4, 0.25, (shape[0], *[1] * (len(shape) - 1)))
        tensors.append((rng.laplace(0, 0.5, shape) * scale).astype(np.float32))
    return tensors


def indices_of(weights: np.ndarray) -> np.ndarray:
    """The nearest level of each weight."""
    return np.searchsorted((LEVELS[1:] + LEVELS[:-1]) / 2, weights).astype(np.uint8)


def best_seconds(repeat: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """The shortest time of a few, and the last result."""
    seconds, result = [], None
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    coders = {"context, as `save` takes it": FileCoder(), "context": ContextCoder()}
    coders["fast"] = FastCoder()

    tensors = [indices_of(weights) for weights in network()]
    tensors.sort(key=lambda indices: -indices.size)
    total = sum(indices.size for indices in tensors)
    largest = max(indices.size for indices in tensors)
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"{platform.machine()} {platform.system()}.\n`python {' '.join(sys.argv)}`\n\n"
        f"{total:,} weights, {NUM_LEVELS} levels, the largest tensor {largest:,}.\n"
    )
    print("| coder | threads | bytes | encode, M/s | decode, M/s | SHA-256 of all payloads |")
    print("|---|---:|---:|---:|---:|---|")
    for name, coder in coders.items():
        for threads in arguments.threads:
            with ThreadPoolExecutor(threads) as pool:

                def encode(coder: Any = coder, pool: Any = pool) -> list[bytes]:
                    return list(pool.map(lambda x: coder.encode(x, NUM_LEVELS), tensors))

                encode_seconds, payloads = best_seconds(arguments.repeat, encode)

                def decode(
                    coder: Any = coder, pool: Any = pool, payloads: Any = payloads
                ) -> list[np.ndarray]:
                    pairs = zip(payloads, tensors, strict=True)
                    return list(pool.map(lambda p: coder.decode(p[0], p[1].shape, 16), pairs))

                decode_seconds, decoded = best_seconds(arguments.repeat, decode)
            if not all(np.array_equal(a, b) for a, b in zip(decoded, tensors, strict=True)):
                raise RuntimeError(f"{name} does not decode what it encoded")
            digest = hashlib.sha256(b"".join(payloads)).hexdigest()[:16]
            print(
                f"| {name} | {threads} | {sum(map(len, payloads)):,} | "
                f"{total / encode_seconds / 1e6:.1f} | {total / decode_seconds / 1e6:.1f} | "
                f"{digest} |",
                flush=True,
            )
    print("\n| peak memory, one thread | MiB | of the largest tensor, float32 |\n|---|---:|---:|")
    work: dict[str, Callable[[], Any]] = {}
    for name, coder in coders.items():
        payload = coder.encode(tensors[0], NUM_LEVELS)
        work[f"{name}: encode the largest tensor"] = lambda c=coder: c.encode(tensors[0], 16)
        work[f"{name}: decode it"] = lambda c=coder, p=payload: c.decode(p, tensors[0].shape, 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hemp"
        state = {str(i): torch.from_numpy(weights) for i, weights in enumerate(network())}
        save(state, path, quantizer="uniform", num_levels=NUM_LEVELS)
        load(path)
        work["`save`, the whole network"] = lambda: save(state, path, quantizer="uniform")
        work["`load`, beside the network it returns"] = lambda: load(path)
        for name, function in work.items():
            peak = peak_above(function)
            if peak is not None:
                peak -= 4 * total if "load" in name else 0
                print(f"| {name} | {peak / 2**20:.0f} | {peak / 4 / largest:.1f} |", flush=True)


if __name__ == "__main__":
    main()
