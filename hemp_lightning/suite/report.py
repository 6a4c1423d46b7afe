"""From run folders to tables and one page: `hemp report RUNS... -o report/`."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from hemp_lightning.suite.report_page import page, within
from hemp_lightning.suite.runs import (
    Group,
    by_model_and_dataset,
    file_text,
    front_of,
    quality_text,
    read_runs,
    smallest,
)

FIELDS = (
    *("model", "dataset", "method", "pruning", "order", "num_levels", "lambda_entropy"),
    *("settings", "seed", "metric", "float_quality", "quality", "val_quality", "float_bytes"),
    *("file_bytes", "compression_ratio", "bits_per_weight", "fit_seconds", "folder"),
)


def write_report(folders: Iterable[str | Path], output: str | Path) -> list[Path]:
    """Write tables and one self-contained page for all runs below the folders.

    Args:
        folders: As for `read_runs`.
        output: Folder for results.csv (a row a run), results.md (a row for the runs that differ in
            the seed alone) and report.html, which needs neither the others nor a network.

    Returns:
        The files written.
    """
    runs = read_runs(folders)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    files = [output / name for name in ("results.csv", "results.md", "report.html")]
    pairs = by_model_and_dataset(runs)
    groups = [group for members in pairs.values() for group in members]
    settings = {run["folder"]: group.settings for group in groups for run in group.runs}
    with files[0].open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**run, "settings": settings[run["folder"]]} for run in runs)
    files[1].write_text("\n".join(markdown(title, members) for title, members in pairs.items()))
    files[2].write_text(page(pairs, output))
    return files


def markdown(title: str, groups: Sequence[Group]) -> str:
    """A Markdown table, a row a group: means and standard deviations over seeds."""
    front = {id(groups[index]) for index in front_of(groups)}
    best = {id(group) for group in smallest(groups).values()}
    lines = [
        f"## {title}\n",
        f"| method | settings | file | {groups[0].metric} | network at the start | seeds | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for group in groups:
        marks = ["Pareto front"] * (id(group) in front)
        marks += [within(groups[0])] * (id(group) in best)
        cells = [
            *(group.label, group.settings, file_text(group), quality_text(group)),
            *(quality_text(group, "float_quality"), str(len(group.runs)), ", ".join(marks)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `hemp report`.

    Args:
        arguments: What stands after `hemp report` on the command line.

    Returns:
        The exit code, 0.
    """
    parser = argparse.ArgumentParser(
        prog="hemp report", description="Tables and one page from run folders."
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, or folders of them")
    parser.add_argument("-o", "--output", default="report", help="folder to write to")
    options = parser.parse_args(arguments)
    for path in write_report(options.runs, options.output):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
