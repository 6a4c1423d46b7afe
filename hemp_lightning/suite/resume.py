"""Going on with an interrupted run: which checkpoint, with which settings, and its log."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

_log = logging.getLogger(__name__)

_GRID = ("_target_", "num_levels", "quantizer", "tensors", "rate_model", "start_epoch")
_REFUSED = (
    *("model.", "dataset._target_", "dataset.name", "task.", "quantization.", "pruning."),
    *(f"hemp.{key}" for key in _GRID),
)
_FREE = ("model.checkpoint", "model.pretrained", "quantization.path", "hemp.path")


def checkpoint_of(word: str) -> Path:
    """The checkpoint that `resume=` means: the file, or the newest one in that run folder.

    Args:
        word: A `.ckpt`, a folder of them, or a run folder.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(word)
    if path.is_file():
        return path
    found = [*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")] if path.is_dir() else []
    if not found:
        kind = "in the folder" if path.is_dir() else "at"
        raise FileNotFoundError(
            f"`resume`: expected a checkpoint, FILE.ckpt or the folder of a run that wrote one; "
            f"found none {kind} {path.resolve()}"
        )
    return max(found, key=lambda file: file.stat().st_mtime_ns)


def settings_of(config: DictConfig) -> dict[str, Any]:
    """The settings by which the parts of a run are told apart, by their full names.

    Paths of the run folder are not among them.

    Example:
        >>> settings_of(OmegaConf.create({"hemp": {"order": 2, "file": {"coder": "fast"}}}))
        {'hemp.order': 2, 'hemp.file.coder': 'fast'}
    """
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if not isinstance(node, Mapping):
            flat[prefix] = node
            return
        for key, value in node.items():
            walk(value, f"{prefix}.{key}" if prefix else str(key))

    groups = ("model", "dataset", "task", "hemp", "quantization", "pruning", "optimizer")
    chosen = {group: config[group] for group in groups if config.get(group)}
    walk(OmegaConf.to_container(OmegaConf.create(chosen), resolve=False), "")
    resolved: dict[str, Any] = {}
    for key, value in flat.items():
        text = str(value)
        if "runtime.output_dir" in text:
            continue
        resolved[key] = OmegaConf.select(config, key) if "${" in text else value
    return resolved


def check_resumed(config: DictConfig, checkpoint: Path) -> None:
    """Check that a checkpoint was made with the parts of this run.

    Another network, dataset, task or grid is refused. Other settings are taken, and named.

    Raises:
        ValueError: A setting that cannot change differs, or the file is no checkpoint of a run.
    """
    kept, epoch = _read(checkpoint)
    now = settings_of(config)
    changed = {
        key: (kept.get(key), now.get(key))
        for key in sorted(kept.keys() | now.keys())
        if kept.get(key) != now.get(key)
    }
    for key, (before, after) in changed.items() if kept else ():
        if key.startswith(_REFUSED) and key not in _FREE:
            raise ValueError(
                f"`{key}`: expected {before}, with which {checkpoint} was made; found {after}. "
                f"Resume with {key}={before}, or start a new run with model.checkpoint={checkpoint}"
            )
        _log.warning("resumed with another `%s`: %s, where it was %s", key, after, before)
    if epoch >= config.trainer.max_epochs:
        _log.warning(
            "%s has all %d epochs: nothing is left to train, the file is written anew",
            checkpoint,
            config.trainer.max_epochs,
        )
    else:
        _log.info("resumed from %s, after %d epochs", checkpoint, epoch)


def _read(checkpoint: Path) -> tuple[dict[str, Any], int]:
    """Settings in a checkpoint, and how many epochs it has behind it."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        progress = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except Exception as error:  # whatever reading a foreign file raises
        raise ValueError(
            f"`resume`: expected a checkpoint of an interrupted run; {checkpoint} cannot be read "
            f"as one ({' '.join(str(error).split())[:120]}). Type model.checkpoint={checkpoint} to "
            "start from its weights"
        ) from error
    states = content.get("callbacks", {})
    kept: dict[str, Any] = next((s["settings"] for s in states.values() if "settings" in s), {})
    return kept, progress


def metrics_in(folder: Path) -> list[dict[str, str]]:
    """Rows of the `metrics.csv` in a run folder, by column; none if there is no such file."""
    file = folder / "csv" / "metrics.csv"
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def put_back(rows: list[dict[str, str]], folder: Path) -> None:
    """Put the rows of an earlier part of a run before those of its later part.

    Lightning's logger deletes `metrics.csv` when it starts. Rows of steps that were trained again
    are left out.

    Args:
        rows: What `metrics_in` gave before the logger started.
        folder: The run folder.
    """
    new = metrics_in(folder)
    start = min((int(row["step"]) for row in new if row.get("step")), default=None)
    old = [r for r in rows if start is None or not r.get("step") or int(r["step"]) < start]
    if not old:
        return
    names = list(dict.fromkeys(name for row in [*old, *new] for name in row))
    (folder / "csv").mkdir(parents=True, exist_ok=True)
    with (folder / "csv" / "metrics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *new])
