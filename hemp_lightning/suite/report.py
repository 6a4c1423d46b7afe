"""From run folders to one table and one picture: `hemp report RUNS... -o report/`."""

from __future__ import annotations

import argparse
import base64
import csv
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hemp_lightning.suite.pictures import draw_layers, draw_rate_accuracy

COLUMNS = (
    "model",
    "dataset",
    "method",
    "pruning",
    "order",
    "num_levels",
    "lambda_entropy",
    "settings",
    "seed",
    "float_accuracy",
    "accuracy",
    "val_accuracy",
    "float_bytes",
    "file_bytes",
    "compression_ratio",
    "bits_per_weight",
    "fit_seconds",
)
BEST_COLUMNS = (
    "label",
    "lambda_entropy",
    "settings",
    "file_bytes",
    "compression_ratio",
    "accuracy",
    "float_accuracy",
    "fit_seconds",
)
BEST = "The smallest file of each method within one point of the float network, on validation."


def read_runs(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Read every results.json in and below the folders.

    Args:
        folders: Run folders, or folders that hold run folders.

    Returns:
        The results, each with its folder as `run`, sorted by model, dataset, method and size.

    Raises:
        FileNotFoundError: A folder does not exist, or there is no results.json in any of them.
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"`RUNS`: expected a folder; found none at {path}")
    files = sorted({file for path in paths for file in path.rglob("results.json")})
    if not files:
        raise FileNotFoundError(
            f"`RUNS`: expected at least one results.json below {', '.join(map(str, paths))}; "
            f"found none. `python run.py` writes one into each run folder"
        )
    runs = [{**json.loads(file.read_text()), "run": str(file.parent)} for file in files]
    for run in runs:
        run["settings"] = settings(run)
    runs.sort(key=lambda r: (r["model"], r["dataset"], label(r), r["file_bytes"]))
    return runs


def label(run: dict[str, Any]) -> str:
    """What a run is called in a picture: its method, with its pruning and its order.

    Example:
        >>> label({"method": "hemp", "pruning": "lobster", "order": 2})
        'hemp order 2 + lobster'
    """
    name = str(run["method"])
    if run.get("order") is not None:
        name += f" order {run['order']}"
    if run.get("pruning", "none") != "none":
        name += f" + {run['pruning']}"
    return name


def settings(run: dict[str, Any]) -> str:
    """The words of the command line that set the method, without those that have a column.

    Example:
        >>> settings({"overrides": ["model=lenet5", "hemp.order=2", "quantization.qp=-32"]})
        'qp=-32'
    """
    words = [word.partition(".") for word in run.get("overrides", ())]
    said = [word for group, _, word in words if group in ("hemp", "quantization", "pruning")]
    return " ".join(word for word in said if word.split("=")[0] not in COLUMNS)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both numbers: fewer bytes, more accuracy.

    Args:
        points: Pairs of bytes and accuracy.

    Returns:
        Indices, by ascending bytes; of equal points the first.

    Example:
        >>> pareto_front([(100, 0.90), (50, 0.80), (120, 0.89), (60, 0.80)])
        [1, 0]
    """
    front, best = [], float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def over_seeds(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join runs that differ in nothing but the seed.

    Returns:
        For each group its label, mean and standard deviation (0 for one seed) of `file_bytes` and
        `accuracy`, the number of seeds, and `best`: whether it is on the front of its own label.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        settings = tuple(w for w in run.get("overrides", ()) if not w.startswith("seed="))
        key = (label(run), run.get("num_levels"), run.get("lambda_entropy"), settings)
        groups.setdefault(key, []).append(run)
    joined = []
    for (name, *_), members in groups.items():
        entry: dict[str, Any] = {"label": name, "seeds": len(members)}
        for number in ("file_bytes", "accuracy"):
            values = [float(member[number]) for member in members]
            entry[number] = mean(values)
            entry[f"{number}_spread"] = stdev(values) if len(values) > 1 else 0.0
        joined.append(entry)
    for name in {entry["label"] for entry in joined}:
        same = [entry for entry in joined if entry["label"] == name]
        front = pareto_front([(entry["file_bytes"], entry["accuracy"]) for entry in same])
        for index, entry in enumerate(same):
            entry["best"] = index in front
    return joined


def write_report(folders: Iterable[str | Path], output: str | Path) -> list[Path]:
    """Write table, pictures and one self-contained page for all runs below the folders.

    Args:
        folders: As for `read_runs`.
        output: Folder for results.csv, results.md, for each pair of model and dataset one picture
            of rate and accuracy and one of the bits of each layer, and report.html, which needs
            none of the others.

    Returns:
        The files written.
    """
    runs = read_runs(folders)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, "run"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(runs)
    (output / "results.md").write_text(markdown(runs))
    pictures = []
    for pair in sorted({(run["model"], run["dataset"]) for run in runs}):
        members = [run for run in runs if (run["model"], run["dataset"]) == pair]
        points = over_seeds(members)
        front = pareto_front([(p["file_bytes"], p["accuracy"]) for p in points])
        title = f"{pair[0]} on {pair[1]}"
        floating = mean(run["float_accuracy"] for run in members)
        pictures.append(output / f"{pair[0]}_{pair[1]}.png")
        draw_rate_accuracy(points, front, floating, title, pictures[-1])
        best = {name: run for name, run in smallest(members).items() if run.get("tensors")}
        if best:  # a bitstream that is not ours does not tell its tensors
            pictures.append(output / f"{pair[0]}_{pair[1]}_layers.png")
            draw_layers(best, title, pictures[-1])
    (output / "report.html").write_text(page(runs, pictures))
    return [output / "results.csv", output / "results.md", *pictures, output / "report.html"]


def smallest(runs: Sequence[dict[str, Any]], loss: float = 0.01) -> dict[str, dict[str, Any]]:
    """For each label the smallest file that loses no more than `loss` of the float accuracy.

    Both accuracies are those on the validation split where the runs have them, so that the test
    split chooses nothing.

    Args:
        runs: Runs of one model and dataset.
        loss: Accuracy that may be lost, from 0 to 1.

    Example:
        >>> run = {"method": "lsq", "file_bytes": 9, "accuracy": 0.98, "float_accuracy": 0.99}
        >>> list(smallest([run])), list(smallest([run], loss=0.001))
        (['lsq'], [])
    """
    best: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda r: r["file_bytes"]):
        on_val = "val_accuracy" in run and "float_val_accuracy" in run
        prefix = "val_" if on_val else ""
        if run[f"{prefix}accuracy"] >= run[f"float_{prefix}accuracy"] - loss:
            best.setdefault(label(run), run)
    return best


def best_runs(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """For each `MODEL on DATASET` the smallest files, by ascending bytes, with their `label`."""
    best = {}
    for model, dataset in sorted({(run["model"], run["dataset"]) for run in runs}):
        members = [run for run in runs if (run["model"], run["dataset"]) == (model, dataset)]
        best[f"{model} on {dataset}"] = [
            {**run, "label": name} for name, run in smallest(members).items()
        ]
    return best


def markdown(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown tables: the smallest files of each model and dataset, then all runs."""
    parts = []
    for title, best in best_runs(runs).items():
        parts += [f"## {title}", BEST, markdown_table(best, BEST_COLUMNS)]
    return "\n\n".join([*parts, "## All runs", markdown_table(runs, COLUMNS)]) + "\n"


def markdown_table(runs: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """One row a run."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(run, column) for column in columns) + " |" for run in runs]
    return "\n".join(lines)


def cell(run: dict[str, Any], column: str) -> str:
    """One entry of the table, as people read it.

    Example:
        >>> cell({"accuracy": 0.9913}, "accuracy"), cell({"file_bytes": 21996}, "file_bytes")
        ('99.13 %', '21,996')
    """
    value = run.get(column)
    if value is None:
        return ""
    if column.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if column.endswith("_bytes"):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def page(runs: Sequence[dict[str, Any]], pictures: Sequence[Path]) -> str:
    """One HTML page with the pictures inside it; it opens without a network."""
    images = "".join(
        f'<img alt="{picture.stem}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.read_bytes()).decode()}">'
        for picture in pictures
    )
    style = (
        "body{font:15px sans-serif;margin:2em;max-width:75em}img{max-width:100%}"
        "table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:3px 7px}"
        "td{text-align:right}"
    )
    tables = "".join(
        f"<h2>{html.escape(title)}</h2><p>{BEST}</p>{html_table(best, BEST_COLUMNS)}"
        for title, best in best_runs(runs).items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>hemp report</title>'
        f"<style>{style}</style><h1>Size and accuracy of {len(runs)} runs</h1>{images}"
        f"{tables}<h2>All runs</h2>{html_table(runs, COLUMNS)}</html>\n"
    )


def html_table(runs: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """One row a run."""
    heading = "".join(f"<th>{column}</th>" for column in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell(run, c))}</td>" for c in columns) + "</tr>"
        for run in runs
    )
    return f"<table><tr>{heading}</tr>{rows}</table>"


def main(arguments: Sequence[str]) -> int:
    """The command `hemp report`.

    Args:
        arguments: What stands after `hemp report` on the command line.

    Returns:
        The exit code, 0.
    """
    parser = argparse.ArgumentParser(
        prog="hemp report", description="Tables and pictures from run folders."
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders of them")
    parser.add_argument("-o", "--output", default="report", help="folder to write to")
    options = parser.parse_args(arguments)
    for path in write_report(options.runs, options.output):
        print(path)
    return 0
