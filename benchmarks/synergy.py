"""Tables, pictures and sentences of HEMP with pruning and quantization, from their results files.

    python benchmarks/synergy.py            # writes benchmarks/results/synergy/RESULTS.md
    python benchmarks/synergy.py --check    # says what differs, and exits with 1

Methods are compared in bytes at one accuracy of the decoded network, on the straight line between
neighbouring points of each curve. A curve has three points or more; one that does not reach the
accuracy gives a bound, never a point beyond its ends. `synergy_runs.py` makes the results files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from headline import digest_of, draw_sweep, stored_digest
from measured import bytes_at
from synergy_runs import PLANS, Plan
from tables import filled, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "synergy"
POINTS = 3  # of a curve
NAMES = {
    "float": "float, then 16 Lloyd-Max levels",
    "hemp": "HEMP",
    "lsq": "LSQ",
    "hemp_lsq": "HEMP + LSQ",
    "magnitude": "magnitude pruning",
    "hemp_magnitude": "HEMP + magnitude pruning",
    "lobster": "LOBSTER",
    "hemp_lobster": "HEMP + LOBSTER, at once",
    "lobster_then_hemp": "LOBSTER, then HEMP",
    "hemp_then_lobster": "HEMP, then LOBSTER too",
    "filters": "filter pruning",
    "hemp_filters": "HEMP + filter pruning",
}
PARTS = {  # what each combination is made of beside HEMP
    "hemp_lsq": "lsq",
    "hemp_magnitude": "magnitude",
    "hemp_lobster": "lobster",
    "lobster_then_hemp": "lobster",
    "hemp_then_lobster": "lobster",
    "hemp_filters": "filters",
}


@dataclass(frozen=True)
class Bytes:
    """Bytes of a method at an accuracy, one number a seed.

    Attributes:
        seeds: Bytes of each seed.
        kind: `at` the accuracy; `above` where a curve stays below it: the method needs more than
            these; `below` where all points of a curve lie above it: it needs these or fewer.
    """

    seeds: tuple[float, ...]
    kind: str

    @property
    def mean(self) -> float:
        return mean(self.seeds)

    def text(self) -> str:
        """`1,108 ± 14 B`, with what it is a bound of."""
        sign = {"at": "", "above": "> ", "below": "<= "}[self.kind]
        spread = f" ± {stdev(self.seeds):,.0f}" if len(self.seeds) > 1 else ""
        return f"{sign}{self.mean:,.0f}{spread} B"


def read(folder: Path) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """The runs of a network: by row and seed, from small files to large ones."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    keys = sorted(NAMES, key=len, reverse=True)  # `hemp_lsq` before `hemp`
    for path in sorted(folder.glob("*.json")):
        key = next((key for key in keys if path.name.startswith(f"{key}_")), None)
        if key is None or "_first_" in path.name:
            continue
        run = json.loads(path.read_text())
        found.setdefault(key, {}).setdefault(run["seed"], []).append(run)
    for seeds in found.values():
        for runs in seeds.values():
            runs.sort(key=lambda run: run["file_bytes"])
    return {key: found[key] for key in NAMES if key in found}


def at_accuracy(seeds: dict[int, list[dict[str, Any]]], accuracy: float) -> Bytes | None:
    """Bytes of a method at an accuracy; None where a seed has too few points for a curve.

    Example:
        >>> runs = [{"file_bytes": b, "accuracy": a} for b, a in ((10, 0.8), (20, 0.9), (30, 0.92))]
        >>> at_accuracy({0: runs}, 0.85).text(), at_accuracy({0: runs}, 0.95).text()
        ('15 B', '> 30 B')
    """
    if any(len(runs) < POINTS for runs in seeds.values()):
        return None
    kinds, found = set(), []
    for _, runs in sorted(seeds.items()):
        points = [(run["file_bytes"], run["accuracy"]) for run in runs]
        count, reaches = bytes_at(points, accuracy)
        found.append(float(count))
        least = all(reached > accuracy for _, reached in points)
        kinds.add("below" if least else "at" if reaches else "above")
    kind = "at" if kinds == {"at"} else "above" if "above" in kinds else "below"
    return Bytes(tuple(found), kind)


def compared_at(runs: dict[str, dict[int, list[dict[str, Any]]]]) -> float:
    """The accuracy of the comparison: the middle of HEMP's curve, over all seeds, in tenths.

    Example:
        >>> runs = [{"accuracy": 0.982}, {"accuracy": 0.987}, {"accuracy": 0.99}]
        >>> compared_at({"hemp": {0: runs}})
        0.986
    """
    ends = [
        (min(run["accuracy"] for run in seed), max(run["accuracy"] for run in seed))
        for seed in runs["hemp"].values()
    ]
    low, high = max(least for least, _ in ends), min(most for _, most in ends)
    return int(500 * (low + high) + 1e-9) / 1000


def rows_of(runs: dict[str, dict[int, list[dict[str, Any]]]], accuracy: float) -> str:
    """A row a method: its curve, and its bytes at one accuracy."""
    lines = []
    for key, seeds in runs.items():
        first = seeds[min(seeds)]
        curve = "; ".join(f"{r['file_bytes']:,} B {100 * r['accuracy']:.2f} %" for r in first)
        found = at_accuracy(seeds, accuracy)
        lines.append(
            [
                NAMES[key],
                f"{100 * mean(run['zero_share'] for run in first):.0f} %",
                curve,
                found.text() if found else "no curve",
                f"{len(seeds)}",
            ]
        )
    at = f"bytes at {100 * accuracy:.1f} %:"
    return table(
        ["method", "zeros:", f"files and accuracies, seed {_seed(runs)}", at, "seeds:"], lines
    )


def _seed(runs: dict[str, dict[int, list[dict[str, Any]]]]) -> int:
    return min(min(seeds) for seeds in runs.values())


def gains(runs: dict[str, dict[int, list[dict[str, Any]]]], accuracy: float) -> str:
    """A sentence a combination: what it needs of the better of its parts."""
    lines = []
    for key, part in PARTS.items():
        combined, hemp, other = (
            at_accuracy(runs[k], accuracy) if k in runs else None for k in (key, "hemp", part)
        )
        if combined is None or hemp is None:
            lines.append(f"- {NAMES[key]}: not complete.")
            continue
        better = other is not None and other.kind == "at" and other.mean < hemp.mean
        best, name = (other, NAMES[part]) if better and other is not None else (hemp, "HEMP")
        ratio = combined.mean / best.mean
        lines.append(
            f"- {NAMES[key]} needs {combined.text()} at {100 * accuracy:.1f} %, {name} alone "
            f"{best.text()}: {_times(ratio, combined.kind, best.kind)} of the bytes, "
            f"{len(combined.seeds)} {'seeds' if len(combined.seeds) > 1 else 'seed'}."
        )
    return "\n".join(lines) + "\n"


def _times(ratio: float, combined: str, best: str) -> str:
    """A ratio of two sizes, where either may be a bound."""
    if (combined, best) == ("at", "at"):
        return f"{ratio:.2f}"
    if combined in ("at", "above") and best in ("at", "below"):
        return f"more than {ratio:.2f}" if combined == "above" else f"at least {ratio:.2f}"
    if combined in ("at", "below") and best in ("at", "above"):
        return f"at most {ratio:.2f}"
    return f"about {ratio:.2f} (both are bounds)"


def state_of(plan: Plan, runs: dict[str, dict[int, list[dict[str, Any]]]]) -> str:
    """What was trained, and what is missing."""
    wanted = {key: len(row.values) for key, row in plan.rows.items()}
    missing = [
        NAMES[key]
        for key, count in wanted.items()
        if not runs.get(key) or any(len(seed) < count for seed in runs[key].values())
    ]
    lines = [
        f"{plan.float_epochs} epochs in float, then {plan.epochs} epochs of each method from that "
        "network. All files are coded by the same coder."
    ]
    lines.append(
        f"**Not complete.** Missing or cut short: {', '.join(missing)}." if missing else "Complete."
    )
    return "\n".join(lines) + "\n"


def makers(root: Path) -> dict[str, Any]:
    """What fills each place of the page."""
    found: dict[str, Any] = {}
    for name, plan in PLANS.items():
        runs = read(root / name)
        if "hemp" not in runs:
            continue
        accuracy = compared_at(runs)
        found[f"{name}-state"] = lambda plan=plan, runs=runs: state_of(plan, runs)
        found[f"{name}-gains"] = lambda runs=runs, at=accuracy: gains(runs, at)
        found[f"{name}-rows"] = lambda runs=runs, at=accuracy: rows_of(runs, at)
    return found


def picture(name: str, plan: Plan, root: Path) -> dict[str, Any]:
    """What the picture of a network shows: curves of its lowest seed."""
    runs = read(root / name)
    series = {
        NAMES[key]: [
            [run["file_bytes"], round(100 * run["accuracy"], 2)] for run in seeds[min(seeds)]
        ]
        for key, seeds in runs.items()
    }
    points = [point for curve in series.values() for point in curve]
    floating = runs["hemp"][_seed(runs)][0]
    shares = [share for _, share in points] + [100 * floating["float_accuracy"]]
    return {
        "style": 2,
        "title": f"{name}: {plan.epochs} epochs from one float network, seed {_seed(runs)}",
        "series": series,
        "float": [floating["float_bytes"], round(100 * floating["float_accuracy"], 2)],
        "widths": [min(size for size, _ in points) / 2, 3 * floating["float_bytes"]],
        "heights": [max(min(shares) - 0.2, max(shares) - 4), max(shares) + 0.2],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        1 if `--check` found a difference, else 0.
    """
    parser = argparse.ArgumentParser(description="The page of HEMP with pruning and quantization.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    parser.add_argument("--root", type=Path, default=RESULTS, help="folder of RESULTS.md")
    options = parser.parse_args(arguments)
    page = options.root / "RESULTS.md"
    before, found = page.read_text(), makers(options.root)
    after = filled(before, found, page.name)
    differing = int(before != after)
    if differing and not options.check:
        page.write_text(after)
    for name, plan in PLANS.items():
        if f"{name}-rows" not in found:
            continue
        data, path = picture(name, plan, options.root), options.root / f"{name}.png"
        if stored_digest(path) != digest_of(data):
            differing += 1
            if not options.check:
                draw_sweep(data, path)
    if options.check and differing:
        print(f"{page} differs from the results files; `python benchmarks/synergy.py` writes it")
    return int(options.check and differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
