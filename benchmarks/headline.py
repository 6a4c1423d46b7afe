"""Draw the picture of the README: bytes of the whole file against accuracy, network by network.

    python -m benchmarks.headline benchmarks/results/headline.png

Reads the results.json files beside each `model.hemp`; published figures are those of RESULTS.md
there, with their sources.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

RESULTS = Path(__file__).parent / "results"
PANELS = {
    "lenet5_mnist": "LeNet-5, MNIST",
    "lenet300_mnist": "LeNet-300-100, MNIST",
    "resnet20_cifar10_jpeg": "ResNet-20, CIFAR-10 as JPEG",
    "resnet32_cifar10_jpeg": "ResNet-32, the same",
    "resnet56_cifar10_jpeg": "ResNet-56, the same",
}
PUBLISHED = {
    "lenet5_mnist": [
        ("Oktay et al. 2020", 2840, 99.0),
        ("MIRACLE, 2019", 1140, 99.02),
        ("MIRACLE, 2019", 1694, 99.17),
    ],
    "lenet300_mnist": [("Oktay et al. 2020", 8560, 98.1)],
}


def read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Results of a folder, by ascending bytes."""
    found = [json.loads(path.read_text()) for path in folder.glob(pattern)]
    return sorted(found, key=lambda results: results["file_bytes"])


def draw(axes: Axes, name: str, folder: Path) -> None:
    """One network: HEMP, runs without the entropy term, NNCodec, published figures."""
    for pattern, label, marker, color in (
        ("results_seed*.json", "HEMP, a seed", "o", "#cc3311"),
        ("results_lambda0[1-9]_*seed*.json", "HEMP, a weaker lambda", "o", "#ee9988"),
        ("results_lambda0_*seed*.json", "without the entropy term", "s", "#4477aa"),
        ("nncodec_float*.json", "NNCodec on our float network", "v", "#228833"),
        ("nncodec_longfloat*.json", "NNCodec on a float network trained longer", "^", "#ccbb44"),
    ):
        points = read(folder, pattern)
        if not points:
            continue
        line = "-" if pattern.startswith("nncodec") else "none"
        counts, accuracies = (
            [p["file_bytes"] for p in points],
            [100 * p["accuracy"] for p in points],
        )
        axes.plot(counts, accuracies, label=label, ls=line, lw=1, marker=marker, color=color)
    every = read(folder, "*.json")
    floating = 100 * max(results["float_accuracy"] for results in every)
    axes.axhline(floating, color="grey", linestyle=":", label="best float network")
    for number, (label, count, accuracy) in enumerate(PUBLISHED.get(name, [])):
        axes.plot(count, accuracy, "k*", markersize=9, label="published")
        place = (0, -12 if number % 2 else 6)  # labels of neighbours above and below in turn
        axes.annotate(label, (count, accuracy), place, textcoords="offset points", fontsize=7)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], floating - 1.5))  # points below are not shown
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.3, high * 1.8)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{PANELS[name]} ({every[0]['float_bytes']:,} B)", fontsize=9)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)


def main() -> None:
    """Draw the panels that have results."""
    names = [name for name in PANELS if (RESULTS / name / "model.hemp").is_file()]
    figure = Figure(figsize=(3.4 * len(names), 3.4), layout="constrained")
    labels: dict[str, Any] = {}
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        draw(axes, name, RESULTS / name)
        axes.set_xlabel("bytes of the whole file", fontsize=8)
        labels |= {line.get_label(): line for line in axes.get_lines()}
    figure.supylabel("test accuracy of the decoded network, %", fontsize=8)
    figure.legend(
        list(labels.values()),
        list(labels),
        loc="outside lower center",
        ncols=len(labels),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(sys.argv[1], dpi=120)


if __name__ == "__main__":
    main()
