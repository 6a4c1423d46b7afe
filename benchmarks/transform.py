"""Bytes at equal error: weights or cosine coefficients, nearest levels or priced ones.

    python -m benchmarks.transform --checkpoints CHECKPOINTS [--models resnet20 ...]

Pretrained CIFAR ResNets, without training. All tensors of a network share one step. A step is
searched for each row so that the mean squared error of all quantized weights is that of the first
row, which takes nearest levels on the weights themselves. Files are compared whole.
"""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from hemp_lightning import load, save
from hemp_lightning.quantization.codebook import Codebook

# Steps that give files of about 4, 2 and 1 bits per weight, in standard deviations of all weights.
BITS = {4: 0.21, 2: 0.88, 1: 2.1}
ROWS = (("none", "nearest"), ("none", "priced"), ("auto", "nearest"), ("auto", "priced"))
CLOSE = 1e-4  # of the error, relative


@dataclass(frozen=True)
class Grid:
    """A quantizer with one step for every tensor."""

    step: float
    num_levels: int = 65536

    def fit(self, weights: torch.Tensor, init: Codebook | None = None) -> Codebook:
        """All multiples of the step that the weights need."""
        low, high = (round(float(end) / self.step) for end in torch.aminmax(weights))
        return Codebook(self.step * torch.arange(min(low, 0), max(high, 0) + 1))


@dataclass(frozen=True)
class Outcome:
    """A file: its bytes, the error of its weights, and how long it took."""

    file_bytes: int
    error: float
    encode_seconds: float
    decode_seconds: float


def written(state: dict[str, torch.Tensor], step: float, transform: str, cells: str) -> Outcome:
    """The file with that step."""
    # a step that float16 holds, so that levels are two bytes each in every row
    step = float(np.float32(np.float16(step)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hemp"
        summary = save(
            state, path, quantizer=Grid(step), transform=transform, cells=cells, threads=1
        )
        begin = time.perf_counter()
        found = load(path, threads=1)
        seconds = time.perf_counter() - begin
    names = [tensor.name for tensor in summary.tensors if tensor.num_levels]
    squares = sum(float((found[n].double() - state[n].double()).square().sum()) for n in names)
    error = squares / sum(state[name].numel() for name in names)
    return Outcome(summary.file_bytes, error, summary.encode_seconds, seconds)


def at_error(
    state: dict[str, torch.Tensor], step: float, transform: str, cells: str, error: float
) -> tuple[float, Outcome]:
    """Bytes at that error, between the two files nearest to it; and the last file."""
    found: list[tuple[float, Outcome]] = []
    slope = 1.5  # of the logarithm of the error over that of the step
    for _ in range(8):
        outcome = written(state, step, transform, cells)
        found.append((step, outcome))
        miss = math.log(error / outcome.error)
        if abs(miss) < CLOSE:
            break
        if len(found) > 1:
            (last, before), (now, after) = found[-2:]
            moved = math.log(now / last)
            if abs(moved) > 1e-3:
                slope = max(0.3, math.log(after.error / before.error) / moved)
        step *= math.exp(miss / slope)
    logs = sorted((math.log(o.error), math.log(o.file_bytes)) for _, o in found)
    nearest = sorted(logs, key=lambda log: abs(log[0] - math.log(error)))[:2]
    (x, y), (u, v) = (nearest * 2)[:2]
    bytes_there = y if abs(u - x) < 1e-9 else y + (v - y) * (math.log(error) - x) / (u - x)
    return math.exp(bytes_there), found[-1][1]


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=["resnet20", "resnet32", "resnet56"])
    parser.add_argument("--bits", nargs="*", type=int, default=list(BITS))
    arguments = parser.parse_args()
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"torch {torch.__version__}, one thread\n"
    )
    print(
        "| network | bits per weight | transform | cells | file, bytes | of the first row "
        "| encode, s | decode, s |\n|---|---:|---|---|---:|---:|---:|---:|"
    )
    for model in arguments.models:
        state = load_file(arguments.checkpoints / f"{model}_cifar10.safetensors")
        weights = torch.cat([t.flatten() for t in state.values() if t.ndim > 1])
        for bits in arguments.bits:
            step = BITS[bits] * float(weights.std())
            first = written(state, step, "none", "nearest")
            for transform, cells in ROWS:
                size, last = float(first.file_bytes), first
                if (transform, cells) != ROWS[0]:
                    start = step * (0.85 if cells == "priced" else 1.0)
                    size, last = at_error(state, start, transform, cells, first.error)
                print(
                    f"| {model} | {8 * first.file_bytes / len(weights):.2f} | {transform} "
                    f"| {cells} | {size:,.0f} | {size / first.file_bytes:.3f} "
                    f"| {last.encode_seconds:.2f} | {last.decode_seconds:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
