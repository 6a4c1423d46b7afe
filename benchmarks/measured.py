"""What the committed results say: runs by recipe, as the manifest.yaml of each folder names them.

A manifest names the network, its recipes (words and files), the float networks that NNCodec coded,
and published points with their sources. Every figure of ours comes from a results file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

NETWORKS = (
    "lenet5_mnist",
    "lenet300_mnist",
    "resnet20_cifar10_jpeg",
    "resnet32_cifar10_jpeg",
    "resnet56_cifar10_jpeg",
)


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, which differ in the seed alone.

    Attributes:
        words: The recipe, for people.
        runs: What each results.json holds, by seed.
    """

    words: str
    runs: tuple[dict[str, Any], ...]

    def mean(self, number: str) -> float:
        """Mean over the seeds, in the unit of the results file."""
        return mean(run[number] for run in self.runs)

    def spread(self, number: str) -> float | None:
        """Standard deviation over the seeds; None for a single seed."""
        return stdev(run[number] for run in self.runs) if len(self.runs) > 1 else None


class Network:
    """One folder of results.

    Args:
        folder: With manifest.yaml and the results files that it names.

    Raises:
        ValueError: A pattern of the manifest matches no file, or a results file is in no recipe.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
        self.name = f"{self.manifest['network']}"
        self._used: set[Path] = set()
        self.recipes = {key: self._group(entry) for key, entry in self.manifest["recipes"].items()}
        self.nncodec = [self._group(entry, "file_bytes") for entry in self.manifest["nncodec"]]
        self.float_network = self._group(self.manifest["float"])
        self.published: list[dict[str, Any]] = self.manifest.get("published", [])
        left = set(folder.glob("results*.json")) | set(folder.glob("nncodec*.json"))
        if left - self._used:
            names = ", ".join(sorted(path.name for path in left - self._used))
            raise ValueError(f"`{folder.name}/manifest.yaml` must name every file; found {names}")

    def _group(self, entry: dict[str, str], order: str = "seed") -> Group:
        paths = sorted(self.folder.glob(entry["files"]))
        if not paths:
            raise ValueError(
                f"`files` must match results files of {self.folder.name}; found none for "
                f"{entry['files']!r}"
            )
        self._used.update(paths)
        runs = sorted((json.loads(path.read_text()) for path in paths), key=lambda r: r[order])
        return Group(entry["words"], tuple(runs))

    @property
    def record(self) -> Group:
        """The recipe whose median file is model.hemp."""
        return self.recipes["record"]

    @property
    def float_bytes(self) -> int:
        """Bytes of the network in float32."""
        return int(self.record.runs[0]["float_bytes"])

    @property
    def float_accuracy(self) -> float:
        """Accuracy of the float network that was trained longest."""
        return self.float_network.mean("float_accuracy")

    @cached_property
    def nncodec_times(self) -> str:
        """How many times our bytes NNCodec needs at our accuracy, from its best float network."""
        return times_of(self.nncodec, self.record)


def bytes_at(points: Sequence[tuple[float, float]], accuracy: float) -> tuple[float, bool]:
    """Bytes of a curve at an accuracy, on the straight line between its neighbouring points.

    Args:
        points: Pairs of bytes and accuracy (a fraction).
        accuracy: The accuracy wanted, a fraction.

    Returns:
        The fewest bytes, and whether the curve reaches the accuracy. If it does not, the bytes
        are those of its most accurate point: a bound from below.

    Example:
        >>> bytes_at([(100, 0.8), (200, 0.9)], 0.85), bytes_at([(100, 0.8)], 0.9)
        ((150.0, True), (100, False))
    """
    ordered = sorted(points)
    for (low, worse), (high, better) in pairwise(ordered):
        if worse < accuracy <= better:
            return low + (high - low) * (accuracy - worse) / (better - worse), True
    reaching = [count for count, reached in ordered if reached >= accuracy]
    if reaching:
        return reaching[0], True
    return max(ordered, key=lambda point: point[1])[0], False


def times_of(curves: Sequence[Group], ours: Group) -> str:
    """The fewest bytes of the curves at our accuracy, as a multiple of ours.

    If no curve reaches our accuracy, the most accurate point of all is the bound: `more than`.
    """
    curves_points = [[(run["file_bytes"], run["accuracy"]) for run in c.runs] for c in curves]
    found = [bytes_at(points, ours.mean("accuracy")) for points in curves_points]
    reached = [count for count, reaches in found if reaches]
    best = max((point for points in curves_points for point in points), key=lambda p: p[1])
    ratio = min(reached or [best[0]]) / ours.mean("file_bytes")
    digits = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
    return digits if reached else f"more than {digits}"


def read_networks(root: Path) -> dict[str, Network]:
    """The networks whose folders hold a manifest, by folder name."""
    return {name: Network(root / name) for name in NETWORKS}


def read_sweep(path: Path) -> list[dict[str, Any]]:
    """Runs of a sweep from its results.csv, with numbers as numbers."""
    numbers = ("accuracy", "val_accuracy", "float_accuracy", "file_bytes", "compression_ratio")
    with path.open(newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    for row in rows:
        row |= {number: float(row[number]) for number in numbers}
        row["order"] = int(row["order"]) if row["order"] else None
    return rows
