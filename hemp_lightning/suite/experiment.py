"""One run of the suite: from a composed configuration to a trained network, a file and results."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf, read_write
from torch import nn

from hemp_lightning.entropy.formula import warm_up
from hemp_lightning.file.load import load_into
from hemp_lightning.file.save import save
from hemp_lightning.suite.baselines.method import Method
from hemp_lightning.suite.check_keys import check_keys
from hemp_lightning.suite.check_numbers import check_numbers
from hemp_lightning.suite.classifier import Classifier
from hemp_lightning.suite.evaluate import (
    Metric,
    check_metric,
    leave_processes,
    measure,
    metric_of,
)
from hemp_lightning.suite.logs import EpochLines
from hemp_lightning.suite.methods import (
    OwnFormat,
    Starting,
    method_name,
    new_grid,
    new_method,
    new_pruning,
)
from hemp_lightning.suite.parts import (
    Data,
    new_data,
    new_network,
    new_task,
    new_teacher,
    part,
    part_name,
)
from hemp_lightning.suite.results import draw_weights, float_bytes, peak_memory_bytes, zero_share
from hemp_lightning.suite.resume import (
    check_resumed,
    checkpoint_of,
    metrics_in,
    put_back,
    settings_of,
)
from hemp_lightning.suite.snapshot import EpochSeeds, FloatSnapshot
from hemp_lightning.suite.wandb_log import close, log_file, tensor_rows
from hemp_lightning.suite.words import plain
from hemp_lightning.training.callback import HEMPCallback

_log = logging.getLogger(__name__)

_RANKS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
"""What Lightning puts into the environment when it starts processes for further devices."""


@dataclass
class Experiment:
    """The parts of a run, ready to train."""

    config: DictConfig
    folder: Path
    data: Data
    task: LightningModule
    metric: Metric
    method: Any  # writes the file and keeps its summary
    grid: Any  # brings its grid to the method, or None
    snapshot: FloatSnapshot
    trainer: Trainer
    checkpoint: Path | None  # to go on from
    rows: list[dict[str, str]]  # of metrics.csv, logged before it


def prepare(config: DictConfig, folder: Path) -> Experiment:
    """Build everything a run needs; whatever is wrong with the configuration shows here.

    Args:
        config: The composed configuration of `conf/`.
        folder: The run folder, where everything is written.

    Raises:
        ValueError: Parts of the configuration do not fit together.
        FileNotFoundError: The dataset or the checkpoint is not there.
    """
    words = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    check_keys(config, words)
    check_numbers(config)
    checkpoint = None if config.resume is None else checkpoint_of(str(config.resume))
    if checkpoint is not None:
        check_resumed(config, checkpoint)
    seed_everything(config.seed, workers=True, verbose=False)
    grid, method, pruning = new_grid(config), new_method(config, folder), new_pruning(config)
    data = new_data(config)
    chosen = (pruning, grid, method)
    starts = [callback.start_epoch for callback in chosen if isinstance(callback, Starting)]
    network = new_network(config, data, start=True)
    chosen_scheduler = part(config, "scheduler")
    task = new_task(
        config,
        data,
        network,
        scheduler=instantiate(chosen_scheduler) if chosen_scheduler else None,
        restart_epoch=min(starts, default=0),
        distillation=config.distillation,
        temperature=config.temperature,
        teacher=new_teacher(config, data),
        compile=config.compile,
    )
    metric = metric_of(config, task)
    if not isinstance(task, Classifier):
        check_metric(config, data, network, metric)
    # The order counts: what prunes works before what quantizes, and that before the entropy term.
    snapshot = FloatSnapshot(min(starts, default=config.trainer.max_epochs), settings_of(config))
    seeds = EpochSeeds(config.seed)
    seeds.watch(data.module)
    rows = [] if checkpoint is None else metrics_in(folder)
    trainer = _trainer(config, folder, [seeds, snapshot, *chosen, EpochLines()])
    return Experiment(
        config, folder, data, task, metric, method, grid, snapshot, trainer, checkpoint, rows
    )


def _trainer(config: DictConfig, folder: Path, first: list[Any]) -> Trainer:
    loggers = [instantiate(logger) for logger in (config.get("logger") or {}).values()]
    callbacks = [callback for callback in first if callback is not None]
    callbacks += [instantiate(callback) for callback in (config.get("callbacks") or {}).values()]
    if not loggers:  # the monitor has nowhere to write to, and Lightning makes that an error
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=str(folder),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
    )
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
    return trainer


def execute(experiment: Experiment) -> dict[str, Any]:
    """Train, write the file, read it back, test the decoded network and the float network.

    The test split is read here and nowhere else, once for each of the two networks.

    Returns:
        The entries of `results.json`; `results.py` says what each one is. Nothing on processes
        beside the first.

    Raises:
        KeyboardInterrupt: The training was interrupted.
    """
    try:
        fit_seconds = _fit(experiment)
        leave_processes()
        return _results(experiment, fit_seconds) if experiment.trainer.is_global_zero else {}
    finally:
        close(experiment.trainer.loggers)


def _fit(experiment: Experiment) -> float:
    """Train and write the file; the seconds that took, compiled loops made ready before."""
    config, trainer = experiment.config, experiment.trainer
    if part(config, "hemp"):
        warm_up(config.hemp.order, trainer.strategy.root_device)
    with tempfile.TemporaryDirectory() as scratch:
        save(nn.Linear(8, 8), Path(scratch) / "small.hemp")
    _log.info("training for %s epochs; log: %s", trainer.max_epochs, experiment.folder / "run.log")
    checkpoint = experiment.checkpoint
    started = time.perf_counter()
    try:
        with _relaunched(experiment):
            trainer.fit(
                experiment.task,
                datamodule=experiment.data.module,
                ckpt_path=None if checkpoint is None else str(checkpoint),
                weights_only=False,
            )
    except SystemExit:  # Lightning ends the process after Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        if trainer.is_global_zero:
            put_back(experiment.rows, experiment.folder)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return time.perf_counter() - started


@contextmanager
def _relaunched(experiment: Experiment) -> Iterator[None]:
    """Let processes for further devices run this job: not a sweep, and in the same folder."""
    if experiment.trainer.num_devices == 1 or not HydraConfig.initialized():
        yield
        return
    before, known = sys.argv, dict(os.environ)
    hydra: Any = HydraConfig.get()
    sources = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    more = [f"--config-dir={path.removeprefix('file://')}" for path in sources]
    sys.argv = [before[0], *more, *hydra.overrides.task]
    with read_write(hydra):
        hydra.run.dir = str(experiment.folder)
        try:
            yield
        finally:
            sys.argv = before
            for name in _RANKS:  # else the next job of a sweep takes itself for such a process
                if name not in known:
                    os.environ.pop(name, None)


def _results(experiment: Experiment, fit_seconds: float) -> dict[str, Any]:
    config, data, metric = experiment.config, experiment.data, experiment.metric
    summary: Any = experiment.method.summary
    path = Path(summary.path)
    file_bytes = path.stat().st_size
    _log.info("trained in %.0f s; reading %s back, %d bytes", fit_seconds, path, file_bytes)
    decoded = new_network(config, data)
    started = time.perf_counter()
    read = experiment.method.load_into if isinstance(experiment.method, OwnFormat) else load_into
    read(decoded, path)
    decode_seconds = time.perf_counter() - started
    floating = new_network(config, data)
    assert experiment.snapshot.state is not None  # taken at the latest when training ended
    floating.load_state_dict(experiment.snapshot.state)
    _log.info("testing the decoded network and the float network on %s", data.name)
    found = {
        f"{name}{split}": measure(config, data, network, metric, split)
        for split in ("val", "test")
        for name, network in (("float", floating), ("decoded", decoded))
    }
    cosine = [t.name for t in getattr(summary, "tensors", ()) if t.transform == "dct"]
    picture = experiment.folder / "weights.png"
    draw_weights(floating.state_dict(), decoded.state_dict(), picture, cosine)
    size = float_bytes(floating)
    results = {
        "model": part_name(config.model),
        "dataset": data.name,
        "method": method_name(config),
        "pruning": _choice(config, "pruning"),
        "coder": config.coder.name,
        "seed": config.seed,
        **_settings(experiment.method, experiment.grid),
        "metric": metric.name,
        "metric_mode": metric.mode,
        **_measured(metric, found),
        "error": metric.error(found["decodedtest"]),
        "float_epochs": experiment.snapshot.start_epoch,
        "epochs": config.trainer.max_epochs,
        "float_bytes": size,
        "file_bytes": file_bytes,
        "compression_ratio": size / file_bytes,
        "bits_per_weight": 8.0 * file_bytes / (size // 4),
        "entropy_bits_per_weight": summary.entropy_bits_per_weight,
        "zero_share": zero_share(decoded),
        "fit_seconds": fit_seconds,
        "encode_seconds": summary.encode_seconds,
        "decode_seconds": decode_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "file": path.name,
        "torch": torch.__version__,
        "device": str(experiment.trainer.strategy.root_device),
        "overrides": [plain(word) for word in HydraConfig.get().overrides.task],
        "config_hash": config_hash(config),
        "tensors": tensor_rows(summary),
    }
    log_file(experiment.trainer.loggers, results, decoded.state_dict(), path, cosine)
    return results


def _settings(method: Any, grid: Any) -> dict[str, Any]:
    """What HEMP and the baselines are told apart by; None for what an own method has not."""
    if isinstance(method, (HEMPCallback, Method)):
        return {
            "order": method.order,
            "num_levels": getattr(grid or method, "num_levels", None),
            "lambda_entropy": method.lambda_entropy,
        }
    return dict.fromkeys(("order", "num_levels", "lambda_entropy"))


def _measured(metric: Metric, found: dict[str, float]) -> dict[str, float | None]:
    """The four values of the metric; under the names of accuracies if it is one, else beside."""
    names = {
        "float_accuracy": "floattest",
        "accuracy": "decodedtest",
        "float_val_accuracy": "floatval",
        "val_accuracy": "decodedval",  # settings are chosen by this one
    }
    if metric.name == "accuracy":
        return {name: found[key] for name, key in names.items()}
    values = {name.replace("accuracy", "value"): found[key] for name, key in names.items()}
    return {**dict.fromkeys(names), **values}


def finished(config: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The results in a run folder, if they are of this very configuration."""
    try:
        results = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError):
        return None
    return results if results.get("config_hash") == config_hash(config) else None


def config_hash(config: DictConfig) -> str:
    """Hash of all that can change a result; paths of the run folder are left out."""
    plain_config = OmegaConf.to_container(config, resolve=False)
    return hashlib.sha256(json.dumps(plain_config, sort_keys=True).encode()).hexdigest()[:16]


def _choice(config: DictConfig, group: str) -> str:
    chosen = part(config, group)
    return part_name(chosen) if chosen else "none"
