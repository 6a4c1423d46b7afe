"""Second-order rounding against nearest levels of the same grids: bytes at equal accuracy.

    python benchmarks/rounding.py --data cifar10-jpeg --checkpoints checkpoints \
        --network resnet20 --test --output benchmarks/results/calibration/rounding_resnet20.json

Both round every tensor on one grid of its own, whose step follows from one price of a bit. Inputs
are training images without labels. Accuracy and agreement are read on other training images, or,
with `--test`, on the test split. Bytes of nearest levels are interpolated, along a straight line
through the logarithms, at the accuracy of each point of the second order.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from calibration import images, outputs
from torch import Tensor, nn

from hemp_lightning import load_into, save
from hemp_lightning.calibration.grids import grid_codebook, quantizable, transforms_of
from hemp_lightning.calibration.inputs import Call, Inputs
from hemp_lightning.calibration.rounding import Rounding
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.models import build
from hemp_lightning.suite.models.checkpoint import load_checkpoint

SHARES = (0.03, 0.1, 0.2, 0.4, 0.8)
"""Prices, as shares of the one at which rounding costs a few percent of the weights."""


def bytes_at(points: list[dict[str, float]], wanted: float, key: str) -> float | None:
    """Bytes at which a curve has a quality, between two of its points; None outside of it.

    Example:
        >>> bytes_at([{"bytes": 100, "accuracy": 0.5}, {"bytes": 400, "accuracy": 0.9}], 0.7,
        ...     "accuracy")
        200.0
    """
    ordered = sorted(points, key=lambda point: point["bytes"])
    for low, high in pairwise(ordered):
        if low[key] <= wanted <= high[key] and low[key] < high[key]:
            share = (wanted - low[key]) / (high[key] - low[key])
            logs = math.log(low["bytes"]), math.log(high["bytes"])
            return round(math.exp(logs[0] + share * (logs[1] - logs[0])), 3)
    return None


class Measure:
    """Writes a network and measures what comes back out of the file."""

    def __init__(self, network: nn.Module, pixels: Tensor, labels: Tensor) -> None:
        self._network = network
        self._pixels = pixels
        self._labels = labels
        self._wanted = outputs(network, pixels)

    def accuracy(self) -> float:
        """That of the float network."""
        return (self._wanted.argmax(1) == self._labels).float().mean().item()

    def point(self, network: nn.Module, books: dict[str, Codebook]) -> dict[str, float]:
        """Bytes, accuracy and agreement of a network with its codebooks."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.hemp"
            summary = save(network, path, codebooks=books, float_dtype="steps", fold_norms=True)
            found = outputs(load_into(copy.deepcopy(self._network), path), self._pixels)
        classes = found.argmax(1)
        return {
            "bytes": summary.file_bytes,
            "accuracy": (classes == self._labels).float().mean().item(),
            "agreement": (classes == self._wanted.argmax(1)).float().mean().item(),
        }


def nearest(
    network: nn.Module, steps: dict[str, float], transforms: dict[str, str]
) -> tuple[nn.Module, dict[str, Codebook]]:
    """The network with every weight at its nearest level, and the codebooks."""
    network, books = copy.deepcopy(network), {}
    for name, step in steps.items():
        weights = network.get_parameter(name)
        books[name] = grid_codebook(weights, step, transforms[name])
        weights.data = books[name].quantize(weights.data)
    return network, books


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES)
    parser.add_argument("--test", action="store_true", help="read the test split")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    options = parser.parse_args()

    network = build(options.network, 10).eval()
    load_checkpoint(network, options.checkpoints / f"{options.network}_cifar10.safetensors")
    inputs = images(options.data / "train", 0, options.inputs)[0]
    split = ("test", 0, None) if options.test else ("train", 20_000, 3000)
    measure = Measure(network, *images(options.data / split[0], *split[1:]))
    begin, cpu = time.perf_counter(), time.process_time()
    parameters = quantizable(network)
    transforms = transforms_of(parameters)
    rounding = Rounding(network, parameters, Inputs([Call((inputs,), {})]), transforms)
    rounded = [rounding.at_once(rounding.usual_price() * share) for share in options.shares]
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    curve = [measure.point(*each) for each in rounded]
    plain = []
    for share in options.shares:
        steps = rounding.steps(rounding.usual_price() * share)
        plain.append(measure.point(*nearest(network, steps, transforms)))
    for point in curve:
        for key in ("accuracy", "agreement"):
            other = bytes_at(plain, point[key], key)
            point[f"share_at_equal_{key}"] = None if other is None else point["bytes"] / other
    result = {
        "network": options.network,
        "inputs": options.inputs,
        "split": split[0],
        "float_accuracy": measure.accuracy(),
        "seconds_of_all_roundings": seconds,
        "cpu_seconds": cpu,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "shares": list(options.shares),
        "second_order": curve,
        "nearest": plain,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
