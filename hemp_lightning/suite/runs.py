"""Which runs belong together: read from their folders, grouped over seeds, on the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

# Words of the command line that say where things are, and change no result.
PLACES = (
    *("dataset.root", "dataset.cache", "dataset.download", "dataset.num_workers"),
    *("logger", "launcher", "resume", "skip_finished", "sweep_name"),
)
# Words that move a run along its curve: how strong the method is.
STRENGTHS = (
    *("hemp.lambda_entropy", "hemp.target_bytes", "hemp.target_accuracy"),
    *("quantization.", "pruning."),
)
EPOCHS = ("epochs=", "float_epochs=")
# What a row says in columns of its own.
COLUMNS = (
    *("model", "dataset", "epochs", "hemp", "quantization", "pruning", "coder"),
    *("hemp.order", "hemp.lambda_entropy", "hemp.num_levels"),
)
METHODS = {
    "hemp": "HEMP",
    "lobster": "LOBSTER",
    "lsq": "LSQ",
    "lloyd_max": "Lloyd-Max",
    "nncodec": "NNCodec",
    "deep_compression": "Deep Compression",
}


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Attributes:
        label: The method, see `label_of`.
        settings: What else was set, in words.
        curve: Equal for groups that differ in the strength of the method alone.
        runs: What each results.json holds, with `folder`, by ascending seed.
    """

    label: str
    settings: str
    curve: tuple[str, ...]
    runs: tuple[dict[str, Any], ...]

    def mean(self, number: str) -> float:
        """Mean over the runs, in the unit of results.json."""
        return mean(float(run[number]) for run in self.runs)

    def spread(self, number: str) -> float:
        """Standard deviation over the runs; 0 for one run."""
        values = [float(run[number]) for run in self.runs]
        return stdev(values) if len(values) > 1 else 0.0

    @property
    def metric(self) -> str:
        """What the networks are compared by."""
        return str(self.runs[0]["metric"])

    @property
    def more_is_better(self) -> bool:
        """Whether a greater value of the metric is better."""
        return bool(self.runs[0]["metric_mode"] == "max")

    def has(self, number: str) -> bool:
        """Whether every run says the number."""
        return all(run.get(number) is not None for run in self.runs)


def read_runs(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Read every results.json in and below the folders; identical runs count once.

    Args:
        folders: Run folders, or folders that hold run folders.

    Returns:
        The results, each with its folder as `folder`, sorted by model, dataset, method and size.

    Raises:
        FileNotFoundError: A folder does not exist, or there is no results.json in any of them.
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"`RUNS` must be folders; found none at {path}")
    files = sorted({file.resolve() for path in paths for file in path.rglob("results.json")})
    if not files:
        raise FileNotFoundError(
            f"`RUNS` must hold at least one results.json; found none below "
            f"{', '.join(map(str, paths))}. Each run of the suite writes one into its folder"
        )
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in files:
        run = _measured({**json.loads(file.read_text()), "folder": str(file.parent)})
        same = (*_recipe(run), run["seed"], run["file_bytes"], run["quality"])
        found.setdefault(same, run)
    return sorted(
        found.values(), key=lambda r: (r["model"], r["dataset"], label_of(r), r["file_bytes"])
    )


def _measured(run: dict[str, Any]) -> dict[str, Any]:
    """The run with what it was measured by as `metric`, and its four values as `...quality`."""
    metric = run.get("metric") or "accuracy"
    name = "accuracy" if metric == "accuracy" else "value"
    found = {
        f"{prefix}quality": run.get(f"{prefix}{name}")
        for prefix in ("", "float_", "val_", "float_val_")
    }
    return {**run, **found, "metric": metric, "metric_mode": run.get("metric_mode") or "max"}


def words_of(run: dict[str, Any]) -> dict[str, str]:
    """The words of the command line that can change a result, without the seed.

    Example:
        >>> words_of({"overrides": ["seed=1", "epochs=9", "logger=csv", "epochs=5"]})
        {'epochs': '5'}
    """
    words = dict(word.lstrip("+~").partition("=")[::2] for word in run.get("overrides", ()))
    return {
        name: value
        for name, value in words.items()
        if name != "seed" and name not in PLACES and not name.startswith("hydra")
    }


def label_of(run: dict[str, Any]) -> str:
    """What a run is called: its method, with its order and its pruning.

    Example:
        >>> label_of({"method": "hemp", "pruning": "lobster", "order": 2})
        'HEMP order 2 + LOBSTER'
        >>> label_of({"method": "hemp_lsq", "pruning": "none", "order": 2})
        'HEMP order 2 + LSQ'
    """
    method, grid = str(run["method"]), []
    if method.startswith("hemp_"):  # on the grid of another method
        method, grid = "hemp", [method.removeprefix("hemp_")]
    name = METHODS.get(method, method)
    if run.get("order") is not None:
        name += f" order {run['order']}"
    pruning = [word for word in (str(run.get("pruning") or "none"),) if word != "none"]
    return " + ".join([name, *(METHODS.get(more, more) for more in grid + pruning)])


def settings_of(run: dict[str, Any]) -> str:
    """What a run's settings were, in words.

    Example:
        >>> settings_of({"lambda_entropy": 4.0, "num_levels": 5, "overrides": ["epochs=20"]})
        'lambda 4, 5 levels, 20 epochs'
        >>> settings_of({"epochs": 25, "float_epochs": 5})
        '20 epochs after 5 in float'
    """
    words = words_of(run)
    said = []
    if run.get("lambda_entropy") is not None:
        said.append(f"lambda {run['lambda_entropy']:g}")
    if run.get("num_levels") is not None:
        said.append(f"{run['num_levels']} levels")
    if run.get("epochs") is not None:  # of both kinds, in results of 1.0 and later
        start = min(run.get("float_epochs") or 0, run["epochs"])
        said.append(f"{run['epochs'] - start} epochs after {start} in float")
    elif "epochs" in words:
        said.append(f"{words['epochs']} epochs")
    said += [
        f"{name.removeprefix('hemp.').removeprefix('quantization.').removeprefix('pruning.')}={value}"
        for name, value in words.items()
        if name not in COLUMNS and not (name == "float_epochs" and run.get("epochs"))
    ]
    return ", ".join(said)


def _recipe(run: dict[str, Any]) -> tuple[Any, ...]:
    """All that two runs which differ in the seed alone have in common."""
    names = (
        *("model", "dataset", "method", "pruning", "coder", "order", "num_levels"),
        *("lambda_entropy", "float_epochs", "epochs", "metric"),
    )
    values = [run.get(name) for name in names]
    return (*values, tuple(sorted(words_of(run).items())))


def _curve(run: dict[str, Any]) -> tuple[str, ...]:
    """All that the points of one curve have in common: not the strength of the method."""
    words = sorted(f"{k}={v}" for k, v in words_of(run).items() if not k.startswith(STRENGTHS))
    words = [word for word in words if "epochs" not in run or not word.startswith(EPOCHS)]
    words += [f"{n}={run[n]}" for n in ("epochs", "float_epochs") if n in run]
    return (label_of(run), str(run.get("coder")), *words)


def over_seeds(runs: Sequence[dict[str, Any]]) -> list[Group]:
    """Join runs that differ in nothing but the seed, in the order in which they come."""
    members: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        members.setdefault(_recipe(run), []).append(run)
    return [
        Group(
            label_of(same[0]),
            settings_of(same[0]),
            _curve(same[0]),
            tuple(sorted(same, key=lambda run: run["seed"])),
        )
        for same in members.values()
    ]


def file_text(group: Group) -> str:
    """`1,108 ± 14 B`; without a deviation where there is one run."""
    plus = f" ± {group.spread('file_bytes'):,.0f}" if len(group.runs) > 1 else ""
    return f"{group.mean('file_bytes'):,.0f}{plus} B"


def quality_text(group: Group, number: str = "quality") -> str:
    """Mean and deviation: `99.06 ± 0.07 %` of an accuracy, `3.21 ± 0.02` of another metric."""
    value, spread = group.mean(number), group.spread(number)
    if group.metric == "accuracy":
        plus = f" ± {100 * spread:.2f}" if len(group.runs) > 1 else ""
        return f"{100 * value:.2f}{plus} %"
    return f"{value:.4g}" + (f" ± {spread:.2g}" if len(group.runs) > 1 else "")


def by_model_and_dataset(runs: Sequence[dict[str, Any]]) -> dict[str, list[Group]]:
    """The groups of each `MODEL on DATASET`; of several metrics, of each of them."""
    members: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        pair = members.setdefault((run["model"], run["dataset"]), {})
        pair.setdefault(run["metric"], []).append(run)
    return {
        f"{model} on {data}" + (f", {metric}" if len(metrics) > 1 else ""): over_seeds(same)
        for (model, data), metrics in sorted(members.items())
        for metric, same in metrics.items()
    }


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


def front_of(groups: Sequence[Group]) -> list[int]:
    """Indices of the groups whose means are on the Pareto front, by ascending bytes."""
    return pareto_front(
        [
            (g.mean("file_bytes"), g.mean("quality") * (1 if g.more_is_better else -1))
            for g in groups
        ]
    )


def smallest(groups: Sequence[Group], loss: float = 0.01) -> dict[str, Group]:
    """For each method the smallest mean file that loses no more than `loss` of the float network's.

    Means over seeds decide, so that no lucky seed does. Both values are those on the validation
    split where the runs have them, so that the test split chooses nothing.

    Args:
        groups: Groups of one model and dataset.
        loss: What may be lost: of an accuracy as it is (0.01 is one point), of another metric as a
            share of the float network's.

    Returns:
        Groups by label, by ascending bytes.
    """
    best: dict[str, Group] = {}
    for group in sorted(groups, key=lambda g: g.mean("file_bytes")):
        on_val = group.has("val_quality") and group.has("float_val_quality")
        prefix = "val_" if on_val else ""
        value, start = group.mean(f"{prefix}quality"), group.mean(f"float_{prefix}quality")
        lost = start - value if group.more_is_better else value - start
        if lost <= (loss if group.metric == "accuracy" else loss * abs(start)):
            best.setdefault(group.label, group)
    return best


def float_networks(groups: Sequence[Group]) -> dict[str, tuple[float, float]]:
    """The networks with which the methods began, by how they were trained.

    Returns:
        For each its mean value of the metric (each seed once) and its bytes in float32.
    """
    found: dict[str, dict[tuple[Any, float], float]] = {}
    for run in (run for group in groups for run in group.runs):
        words = words_of(run)
        epochs = run.get("float_epochs", words.get("float_epochs"))
        said = [f"{epochs} float epochs"] if epochs is not None else []
        said += [f"{n}={words[n]}" for n in ("model.checkpoint", "experiment") if n in words]
        key = (run["seed"], run["float_quality"])
        found.setdefault(", ".join(said) or "as configured", {})[key] = run["float_bytes"]
    return {
        words: (mean(value for _, value in seen), max(seen.values()))
        for words, seen in found.items()
    }
