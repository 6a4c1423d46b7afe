"""What the loggers get of the written file: wandb a table, histograms and the file itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import Tensor

from hemp_lightning.suite.results import MOST_LEVELS, count_levels, quantized_values

TENSOR_COLUMNS = ("name", "entries", "levels", "bytes", "bits_per_weight", "entropy")


def tensor_rows(summary: Any) -> list[dict[str, Any]]:
    """The rate of each tensor of a file, as `results.json` holds it.

    Args:
        summary: What `save` returned; a foreign bitstream without tensors gives no rows.

    Returns:
        For each tensor its name, entries, levels, bytes, bits per weight and entropy.
    """
    return [
        {
            "name": tensor.name,
            "entries": tensor.num_entries,
            "levels": tensor.num_levels,
            "bytes": tensor.bytes,
            "bits_per_weight": 8 * tensor.bytes / max(1, tensor.num_entries),
            "entropy": tensor.entropy_bits_per_weight,
        }
        for tensor in getattr(summary, "tensors", ())
    ]


def log_file(
    loggers: Iterable[Logger],
    results: Mapping[str, Any],
    state: Mapping[str, Tensor],
    path: Path,
    transformed: Collection[str] = (),
) -> None:
    """Send the results, the rates, the histograms of levels and the file to wandb, if it logs.

    Args:
        loggers: The trainer's loggers; all but wandb's have nowhere to put these.
        results: The entries of `results.json`, with `tensors`.
        state: State dict decoded from the file.
        path: The file.
        transformed: Names of the tensors whose cosine coefficients the file holds.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        import wandb

        run = logger.experiment
        rows = [[row[column] for column in TENSOR_COLUMNS] for row in results["tensors"]]
        logged: dict[str, Any] = {"hemp/tensors": wandb.Table(list(TENSOR_COLUMNS), rows)}
        for name, weights in state.items():
            if weights.ndim < 2:
                continue
            cosine = name in transformed
            levels, counts = count_levels(quantized_values(weights, cosine), cosine)
            if len(levels) <= MOST_LEVELS:
                edges = [i - 0.5 for i in range(len(levels) + 1)]  # a bar a level, by its place
                histogram = wandb.Histogram(np_histogram=(counts, np.array(edges)))
                logged[f"hemp/levels/{name}"] = histogram
        run.log(logged)
        run.summary.update({k: v for k, v in results.items() if isinstance(v, (int, float))})
        artifact = wandb.Artifact(f"{results['model']}-{run.id}", type="model")
        artifact.add_file(str(path), policy="immutable")  # from where it lies: no second copy
        run.log_artifact(artifact)


def close(loggers: Iterable[Logger]) -> None:
    """End wandb's runs, so that the next job of a sweep in this process starts one of its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
