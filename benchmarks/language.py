"""The language model of examples/characters: bytes of its files beside its own metric."""

from __future__ import annotations

import json
from pathlib import Path

HEADINGS = ["network", "file:", "ratio:", "bits per character:", "perplexity:"]


def language_rows(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table: the float network that was trained longest, then the files.

    Args:
        folder: With a results file for each run.
    """
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("results*.json"))]
    longest = max(runs, key=lambda run: run["float_epochs"])
    rows = [
        _row(
            f"float32, {longest['float_epochs']} epochs",
            longest["float_bytes"],
            1.0,
            longest["float_value"],
        )
    ]
    for run in sorted(runs, key=lambda run: -run["file_bytes"]):
        words = f"the same, {run['method'].replace('_', '-')} without training"
        if run["lambda_entropy"] is not None:
            more = run["epochs"] - run["float_epochs"]
            words = f"{run['float_epochs']} epochs in float, {more} with lambda "
            words += f"{run['lambda_entropy']:g}"
        rows.append(_row(words, run["file_bytes"], run["compression_ratio"], run["value"]))
    return HEADINGS, rows


def _row(words: str, count: int, ratio: float, bits: float) -> list[str]:
    return [words, f"{count:,} B", f"{ratio:.1f}", f"{bits:.3f}", f"{2**bits:.2f}"]
