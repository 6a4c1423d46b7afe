"""The pictures of results: bytes of the whole file against accuracy.

`python benchmarks/tables.py` draws them where the results files say something else than they show.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullLocator
from measured import Network
from PIL import Image

DIGEST = "Data-SHA256"
STYLE = 2  # counts up when the drawing changes, so that the committed picture is drawn anew
# Okabe and Ito, told apart by people who see fewer colours
COLORS = {
    "LeNet-5": "#0072B2",
    "LeNet-300-100": "#D55E00",
    "ResNet-20": "#0072B2",
    "ResNet-32": "#D55E00",
    "ResNet-56": "#009E73",
}
PANELS = {  # name in the manifest: what is shown of both axes, bytes and percent
    "MNIST": ((60, 4_000_000), (97.9, 99.75)),
    "CIFAR-10 as JPEG": ((4_000, 6_000_000), (85, 90.4)),
}
# where a name stands beside its point: points to the right and up, and the side of the text
NAME_PLACES = {
    "LeNet-5": (-12, 11, "right"),
    "LeNet-300-100": (-10, -3, "right"),
    "ResNet-20": (-10, 2, "right"),
    "ResNet-32": (-10, 2, "right"),
    "ResNet-56": (-10, 2, "right"),
}
PUBLISHED_PLACES = {
    1140: (-3, -17, "center"),
    1694: (-6, 13, "right"),
    2840: (9, 10, "left"),
    8560: (11, -4, "left"),
}
KINDS = (
    ("o", "-", "full", "HEMP, this package (mean, deviation over seeds)"),
    ("s", "none", "none", "the same without the entropy term"),
    ("v", "--", "full", "NNCodec, without training"),
    ("D", "none", "none", "float32 network"),
    ("*", "none", "full", "published"),
)


def bytes_text(count: float) -> str:
    """A size as people say it.

    Example:
        >>> bytes_text(300), bytes_text(30_000), bytes_text(3_000_000)
        ('300 B', '30 kB', '3 MB')
    """
    for unit, name in ((1_000_000, "MB"), (1_000, "kB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g} B"


def picture_data(networks: dict[str, Network]) -> dict[str, Any]:
    """What the picture shows, rounded to what can be seen: points as (bytes, percent)."""

    def points(keys: list[str]) -> list[list[float]]:
        groups = [network.recipes[key] for key in keys]
        return sorted(
            [
                round(group.mean("file_bytes")),
                round(100 * group.mean("accuracy"), 2),
                round(100 * (group.spread("accuracy") or 0.0), 2),
            ]
            for group in groups
        )

    shown: dict[str, Any] = {"style": STYLE}
    for name, network in networks.items():
        manifest = network.manifest
        best = max(network.nncodec, key=lambda g: max(run["accuracy"] for run in g.runs))
        ends = {
            "panel": manifest["panel"],
            "network": network.name,
            "float": [network.float_bytes, round(100 * network.float_accuracy, 2)],
            "hemp": points(manifest["curve"]),
            "record": points(["record"])[0],
            "without": points([manifest["without"]] if "without" in manifest else []),
            "nncodec": [[r["file_bytes"], round(100 * r["accuracy"], 2)] for r in best.runs],
            "published": [
                [p["name"], p["bytes"], round(100 * p["accuracy"], 2)] for p in network.published
            ],
        }
        shown[name] = ends
    return shown


def digest_of(data: dict[str, Any]) -> str:
    """SHA-256 of what a picture shows."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def stored_digest(picture: Path) -> str | None:
    """The digest that a PNG file carries; None where there is no file or no digest."""
    if not picture.is_file():
        return None
    with Image.open(picture) as image:
        return image.info.get(DIGEST)


def draw_headline(data: dict[str, Any], path: Path) -> None:
    """Draw both panels and write the PNG with the digest of its data."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, 2), PANELS, strict=True):
        networks = [v for v in data.values() if isinstance(v, dict) and v["panel"] == panel]
        _panel(axes, panel, networks)
    handles = [
        Line2D([], [], color="#444444", marker=marker, linestyle=line, fillstyle=fill, label=words)
        for marker, line, fill, words in KINDS
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize=11.5, frameon=False
    )
    figure.savefig(path, dpi=110, metadata={DIGEST: digest_of(data)})


def draw_sweep(data: dict[str, Any], path: Path) -> None:
    """Draw one panel of the methods of a sweep, and write the PNG with the digest of its data.

    Args:
        data: `series`: for each method its points as (bytes, percent); `float`: the one float
            network's point; `title`; `widths` and `heights`: what is shown of both axes.
        path: The picture to write.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    colors = ["#0072B2", "#56B4E9", "#CC79A7", "#D55E00", "#E69F00", "#009E73", "#000000"]
    colors += ["#7F7F7F", "#8C510A", "#44AA99", "#AA4499", "#999933"]
    for number, (name, points) in enumerate(data["series"].items()):
        color, marker = colors[number % len(colors)], "osD^vPX*hpd8"[number % 12]
        axes.plot(*zip(*points, strict=True), marker=marker, color=color, label=name, linewidth=1.6)
    axes.plot(*data["float"], "D", color="#444444", fillstyle="none", label="float32 network")
    _axes(axes, data.get("widths", (1_000, 3_000_000)), data.get("heights", (96, 99.7)))
    axes.set_title(data["title"], fontsize=14)
    axes.legend(fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=110, metadata={DIGEST: digest_of(data)})


def _panel(axes: Axes, panel: str, networks: list[dict[str, Any]]) -> None:
    """One data set."""
    for entry in networks:
        _network(axes, entry, PANELS[panel][1][0])
    axes.set_title(panel, fontsize=14)
    _axes(axes, *PANELS[panel])


def _axes(axes: Axes, widths: tuple[float, float], heights: tuple[float, float]) -> None:
    """Bytes on a log axis in B, kB and MB; accuracy in percent."""
    axes.set_xscale("log")
    axes.set_xlim(*widths)
    axes.set_ylim(*heights)
    ticks = [10**power for power in range(2, 7) if widths[0] <= 10**power <= widths[1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: bytes_text(count)))
    axes.yaxis.set_major_locator(MultipleLocator(0.5 if heights[1] - heights[0] < 3 else 1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.tick_params(labelsize=12)
    axes.set_xlabel("size of the whole file", fontsize=13)
    axes.set_ylabel("test accuracy", fontsize=13)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _network(axes: Axes, entry: dict[str, Any], bottom: float) -> None:
    """Our curve, NNCodec's, the float network and the published points of one network."""
    color, name = COLORS[entry["network"]], entry["network"]
    counts, accuracies, spreads = zip(*entry["hemp"], strict=True)
    axes.errorbar(
        counts, accuracies, spreads, fmt="-o", color=color, linewidth=2.2, markersize=8, capsize=3
    )
    coded = [point for point in entry["nncodec"] if point[1] >= bottom]
    axes.plot(*zip(*coded, strict=True), "--v", color=color, linewidth=1.4, markersize=6)
    axes.plot(*entry["float"], "D", color=color, markersize=7, fillstyle="none")
    for count, accuracy, _ in entry["without"]:
        axes.plot(count, accuracy, "s", color=color, markersize=7, fillstyle="none")
    for source, count, accuracy in entry["published"]:
        axes.plot(count, accuracy, "*", color=color, markersize=13, markeredgecolor="black")
        right, up, side = PUBLISHED_PLACES.get(count, (9, -4, "left"))
        axes.annotate(
            source, (count, accuracy), (right, up), textcoords="offset points", ha=side, fontsize=10
        )
    right, up, side = NAME_PLACES[name]
    count, accuracy, _ = entry["record"]
    axes.annotate(
        f"{name}\n{bytes_text(float(f'{count:.2g}'))}",
        (count, accuracy),
        (right, up),
        textcoords="offset points",
        ha=side,
        va="center",
        color=color,
        fontsize=11,
        fontweight="bold",
    )
