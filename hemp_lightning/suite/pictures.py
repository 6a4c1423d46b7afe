"""The pictures of a report: rate against accuracy, and the bits of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARKERS = "osD^vP*Xhp<>"
MOST_LAYERS = 60  # names beyond these would not be legible
MOST_ROWS = 6


def draw_rate_accuracy(
    points: Sequence[Mapping[str, Any]],
    front: Sequence[int],
    floating: float,
    title: str,
    path: Path,
) -> None:
    """Draw bytes on a log axis against test accuracy: a line a method, the Pareto front marked.

    Args:
        points: With `label`, `file_bytes`, `accuracy`, the spreads of both and `best`, as
            `over_seeds`; the line of a label joins its best points, the others stand pale.
        front: Which of the points are on the Pareto front, by ascending bytes.
        floating: Accuracy of the float network, from 0 to 1.
        title: What stands above.
        path: The picture to write, PNG.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    order = [*range(0, 20, 2), *range(1, 20, 2)]  # the strong ones first
    for number, name in enumerate(sorted({str(point["label"]) for point in points})):
        same = sorted((p for p in points if p["label"] == name), key=lambda p: p["file_bytes"])
        for best in (False, True):
            line = [p for p in same if p["best"] == best]
            axes.errorbar(
                [p["file_bytes"] for p in line],
                [100 * p["accuracy"] for p in line],
                xerr=[p["file_bytes_spread"] for p in line],
                yerr=[100 * p["accuracy_spread"] for p in line],
                color=colors[order[number % 20]],
                marker=MARKERS[number % len(MARKERS)],
                capsize=2,
                linewidth=1.2,
                linestyle="-" if best else "none",
                alpha=1.0 if best else 0.3,
                label=name if best else None,
            )
    ends = [(points[i]["file_bytes"], 100 * points[i]["accuracy"]) for i in front]
    axes.plot(*zip(*ends, strict=True), "k--", linewidth=0.8, zorder=0)
    axes.plot(*zip(*ends, strict=True), "ko", markersize=13, fillstyle="none", label="Pareto front")
    axes.axhline(
        100 * floating, color="grey", linestyle=":", label=f"float network, {floating:.2%}"
    )
    lowest = _lowest(points, floating)
    below = sum(point["accuracy"] < lowest for point in points)
    if below:
        shown = [p["accuracy"] for p in points if p["accuracy"] >= lowest] + [floating]
        margin = 0.05 * (max(shown) - min(shown)) + 1e-4
        axes.set_ylim(100 * (min(shown) - margin), 100 * (max(shown) + margin))
        axes.set_xlabel(f"bytes of the whole file ({below} of {len(points)} points lie below)")
    else:
        axes.set_xlabel("bytes of the whole file")
    axes.set_xscale("log")
    axes.set_ylabel("test accuracy of the decoded network, %")
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both", axis="x")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=120)


def draw_layers(runs: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw a bar for the bits per weight of each layer, a row for each run.

    Args:
        runs: Runs by their label, with `tensors`; the first few are drawn.
        title: What stands above.
        path: The picture to write, PNG.
    """
    from matplotlib.figure import Figure

    shown = list(runs.items())[:MOST_ROWS]
    # one value a channel or less is no layer: norms, biases, counters
    tensors = [[t for t in run["tensors"] if t["name"].endswith("weight")] for _, run in shown]
    names = [t["name"] for t in max(tensors, key=len)][:MOST_LAYERS]
    figure = Figure(figsize=(9, 1.4 + 1.5 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (label, run), entries in zip(rows, shown, tensors, strict=True):
        bits = {t["name"]: t["bits_per_weight"] for t in entries}
        heights = [bits.get(name, 0.0) for name in names]
        bars = axes.bar(range(len(names)), heights, color="#4477aa")
        if len(names) <= 12:
            axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
        axes.margins(y=0.2)
        axes.set_title(
            f"{label}: {run['file_bytes']:,} bytes, {run['accuracy']:.2%}", fontsize=9, loc="left"
        )
        axes.set_ylabel("bits per weight", fontsize=8)
    few = len(names) <= 12
    short = [name.removesuffix(".weight") for name in names]
    rows[-1].set_xticks(range(len(names)), short, rotation=0 if few else 90, fontsize=8)
    figure.suptitle(f"Bits of each layer, {title}: the smallest files within 1 point of float")
    figure.savefig(path, dpi=120)


def _lowest(points: Sequence[Mapping[str, Any]], floating: float) -> float:
    """Where the accuracy axis starts: five points under float, or all if that hides the most."""
    border = floating - 0.05
    return border if sum(p["accuracy"] >= border for p in points) > len(points) / 2 else 0.0
