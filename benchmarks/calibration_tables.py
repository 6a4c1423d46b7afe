"""Write the tables of benchmarks/results/calibration.md from the JSON files beside it.

python benchmarks/calibration_tables.py             # writes
python benchmarks/calibration_tables.py --check     # says if they differ, and exits with 1
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rounding import bytes_at
from tables import ROOT, filled, table

NAMES = {"resnet20": "ResNet-20", "resnet32": "ResNet-32", "resnet56": "ResNet-56"}


def read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Results files by name, in order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]


def percent(value: float, digits: int = 1) -> str:
    """A share in percent.

    Example:
        >>> percent(0.8103, 2)
        '81.03 %'
    """
    return f"{100 * value:.{digits}f} %"


def without_inputs(folder: Path) -> str:
    """Our default beside NNCodec's defaults, and NNCodec at our agreement."""
    rows = []
    for run in read(folder, "*_without_inputs.json"):
        row = [NAMES[run["network"]], f"{run['file_bytes']:,}", percent(run["agreement"])]
        row += [f"{run['cpu_seconds']:.0f}"]
        path = folder / f"nncodec_{run['network']}.json"
        points = json.loads(path.read_text())["points"] if path.exists() else []
        curve = [
            {"bytes": point["file_bytes"], "agreement": point["agreement"]}
            for point in points
            if point["tools"] == "defaults"
        ]
        first = next((p for p in points if p["tools"] == "defaults"), None)
        row += [f"{first['file_bytes']:,}", percent(first["agreement"])] if first else ["", ""]
        same = bytes_at(curve, run["agreement"], "agreement")
        rows.append([*row, "" if same is None else f"{same:,.0f}"])
    headings = ("network", "bytes:", "agreement:", "CPU seconds:")
    headings += ("NNCodec, defaults:", "its agreement:", "its bytes at our agreement:")
    return table(headings, rows)


def nncodec(folder: Path) -> str:
    """NNCodec at several steps."""
    return table(
        ("network", "tools", "qp:", "bytes:", "accuracy:", "agreement:"),
        [
            [NAMES[run["network"]], point["tools"], str(point["qp"]), f"{point['file_bytes']:,}",
             percent(point["accuracy"]), percent(point["agreement"])]
            for run in read(folder, "nncodec_*.json") for point in run["points"]
        ],
    )  # fmt: skip


def share(run: dict[str, Any], own: dict[str, float], key: str) -> str:
    """Our bytes as a share of those of nearest levels, or what it is below."""
    found = own[f"share_at_equal_{key}"]
    if found is not None:
        return f"{found:.2f}"
    largest = max(run["nearest"], key=lambda point: point["bytes"])
    better = all(own[key] > point[key] for point in run["nearest"])
    return f"below {own['bytes'] / largest['bytes']:.2f}" if better else ""


def rounding(folder: Path) -> str:
    """Both curves, and the share of the bytes at equal quality."""
    rows = []
    for run in read(folder, "rounding_*.json"):
        for own, plain in zip(run["second_order"], run["nearest"], strict=True):
            shares = [share(run, own, key) for key in ("accuracy", "agreement")]
            row = [NAMES[run["network"]], f"{own['bytes']:,}"]
            row += [percent(own["accuracy"], 2), percent(own["agreement"])]
            row += [f"{plain['bytes']:,}", percent(plain["accuracy"], 2)]
            rows.append([*row, percent(plain["agreement"]), *shares])
    headings = ("network", "second order, bytes:", "accuracy:", "agreement:", "nearest, bytes:")
    headings += ("accuracy:", "agreement:", "share at equal accuracy:", "at equal agreement:")
    return table(headings, rows)


def distillation(folder: Path) -> str:
    """Points with training."""
    rows = []
    for run in read(folder, "*_seed?.json"):
        steps = next((s["note"] for s in run["each_stage"] if s["name"] == "distil"), "")
        row = [NAMES[run["network"]], f"{run['inputs']:,}", str(run["seed"])]
        row += [f"{run['file_bytes']:,}", percent(run["accuracy"], 2)]
        row += [percent(run["float_accuracy"], 2), steps, f"{run['cpu_seconds']:.0f}"]
        rows.append(row)
    headings = ("network", "inputs:", "seed:", "bytes:", "accuracy:", "float:", "training")
    return table((*headings, "CPU seconds:"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        1 if `--check` found a difference, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    options = parser.parse_args(arguments)
    page, folder = (
        ROOT / "benchmarks/results" / name for name in ("calibration.md", "calibration")
    )
    makers = {
        "distillation": lambda: distillation(folder),
        "rounding": lambda: rounding(folder),
        "without-inputs": lambda: without_inputs(folder),
        "nncodec": lambda: nncodec(folder),
    }
    before = page.read_text()
    after = filled(before, makers, page.name)
    if before != after and not options.check:
        page.write_text(after)
    if before != after:
        print(f"{page.name} differs from the results files" if options.check else "written")
    return int(options.check and before != after)


if __name__ == "__main__":
    raise SystemExit(main())
