"""One run of the suite: from a composed configuration to a trained network, a file and results."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hemp_lightning.coding import get_coder
from hemp_lightning.file.load import load_into
from hemp_lightning.suite.baselines import PostTraining
from hemp_lightning.suite.baselines.weights import network_of
from hemp_lightning.suite.check_numbers import check_numbers
from hemp_lightning.suite.classifier import Classifier, accuracy
from hemp_lightning.suite.models import build, load_checkpoint
from hemp_lightning.suite.results import draw_weights, float_bytes, peak_memory_bytes
from hemp_lightning.suite.wandb_log import close, log_file, tensor_rows

_log = logging.getLogger(__name__)


def run_name(overrides: str) -> str:
    """A folder name for the overrides of a sweep's job: readable, without path separators."""
    name = re.sub(r"[^\w.,=+-]+", "_", overrides.replace("/", "_")) or "run"
    if len(name) <= 150:
        return name
    return f"{name[:130]}~{hashlib.sha256(overrides.encode()).hexdigest()[:12]}"


OmegaConf.register_new_resolver("sum", lambda *terms: sum(terms), replace=True)
OmegaConf.register_new_resolver("half", lambda number: number // 2, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)


class FloatSnapshot(Callback):
    """Keep a copy of the network as it is where the compression method sets in.

    From then on a distilled network learns from the copy. This callback stands first in the list.

    Args:
        start_epoch: Epoch before which the copy is taken; if training ends earlier, at its end.
    """

    def __init__(self, start_epoch: int) -> None:
        self.start_epoch = start_epoch
        self.state: dict[str, Tensor] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the copy before a method that sets in here changes the weights."""
        self._take(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A run resumed after the last batch of an epoch skips `on_train_epoch_start`."""
        self._take(trainer, pl_module)

    def _take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.state is None and trainer.current_epoch >= self.start_epoch:
            self.state = _copy(network_of(pl_module))
        if self.state is not None and isinstance(pl_module, Classifier):
            pl_module.learn_from(self.state)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the copy now if it was never taken."""
        if self.state is None:
            self.state = _copy(network_of(pl_module))

    on_fit_end = on_train_end  # comes alone where there is nothing to train

    def state_dict(self) -> dict[str, Any]:
        """The copy goes into checkpoints, so that a resumed run still has it."""
        return {"state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the copy from a checkpoint."""
        self.state = state_dict["state"]


@dataclass
class Experiment:
    """The parts of a run, ready to train."""

    config: DictConfig
    folder: Path
    datamodule: LightningDataModule
    classifier: Classifier
    method: Callback  # writes the file and keeps its summary
    snapshot: FloatSnapshot
    trainer: Trainer


def prepare(config: DictConfig, folder: Path) -> Experiment:
    """Build everything a run needs; whatever is wrong with the configuration shows here.

    Args:
        config: The composed configuration of `conf/`.
        folder: The run folder, where everything is written.

    Raises:
        ValueError: Parts of the configuration do not fit together.
        FileNotFoundError: The dataset or the checkpoint is not there.
    """
    check_numbers(config)
    seed_everything(config.seed, workers=True, verbose=False)
    method = _method(config, folder)
    datamodule = instantiate(config.dataset)
    datamodule.prepare_data()
    datamodule.setup("fit")
    pruning = _optional(_part(config, "pruning"))
    starts = [part.start_epoch for part in (method, pruning) if hasattr(part, "start_epoch")]
    classifier = Classifier(
        new_network(config, datamodule, start=True),
        datamodule.num_classes,
        instantiate(config.optimizer),
        _optional(_part(config, "scheduler")),
        restart_epoch=min(starts, default=0),
        distillation=config.distillation,
        temperature=config.temperature,
        teacher=_teacher(config, datamodule),
        compile=config.compile,
    )
    # The order counts: what prunes works before what writes the file.
    snapshot = FloatSnapshot(min(starts, default=config.trainer.max_epochs))
    callbacks = [snapshot, pruning, method]
    loggers = [instantiate(logger) for logger in (config.get("logger") or {}).values()]
    callbacks += [instantiate(callback) for callback in (config.get("callbacks") or {}).values()]
    if not loggers:  # the monitor has nowhere to write to, and Lightning makes that an error
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    trainer = instantiate(
        config.trainer,
        callbacks=[callback for callback in callbacks if callback is not None],
        logger=loggers or False,
        default_root_dir=str(folder),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
    )
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
    return Experiment(config, folder, datamodule, classifier, method, snapshot, trainer)


def new_network(
    config: DictConfig, datamodule: Any, start: bool = False, group: str = "model"
) -> nn.Module:
    """Build a network of a configuration for the classes and images of a dataset.

    Args:
        config: The composed configuration.
        datamodule: Says `num_classes`, `in_channels` and `image_size` after its setup.
        start: With the pretrained weights or those of the checkpoint, where the configuration says
            so.
        group: Where the configuration describes it, `model` or `teacher`.

    Raises:
        ValueError: `num_classes` is less than the dataset has, or the network cannot take
            the images or the checkpoint.
    """
    model = config[group]
    if model.num_classes is not None and model.num_classes < datamodule.num_classes:
        raise ValueError(
            f"`{group}.num_classes`: expected {datamodule.num_classes} or more, as many as the "
            f"dataset has; found {model.num_classes}"
        )
    network = build(
        model.name,
        model.num_classes or datamodule.num_classes,
        datamodule.in_channels,
        datamodule.image_size,
        pretrained=start and model.pretrained,
    )
    if start and model.checkpoint is not None:
        load_checkpoint(network, model.checkpoint, f"{group}.checkpoint")
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def _teacher(config: DictConfig, datamodule: Any) -> nn.Module | None:
    """The network of `model@teacher=NAME`, if there is one."""
    teacher = config.get("teacher")
    if teacher is None:
        return None
    if not (teacher.pretrained or teacher.checkpoint):
        raise ValueError(
            f"`teacher`: expected a trained network; found {teacher.name} with neither weights nor "
            "checkpoint. Type teacher.checkpoint=FILE or teacher.pretrained=true"
        )
    if not config.distillation:
        raise ValueError(
            "`distillation`: expected above 0 with a `teacher`; found 0, and nothing would be "
            "learned from it. Type distillation=0.9, or leave the teacher out"
        )
    own, its = (part.num_classes or datamodule.num_classes for part in (config.model, teacher))
    if own != its:
        raise ValueError(
            f"`teacher.num_classes`: expected {own}, as many as the network's; found {its}"
        )
    return new_network(config, datamodule, start=True, group="teacher")


def execute(experiment: Experiment) -> dict[str, Any]:
    """Train, write the file, read it back, test the decoded network and the float network.

    The test split is read here and nowhere else, once for each of the two networks.

    Returns:
        The entries of `results.json`; `results.py` says what each one is.
    """
    try:
        return _execute(experiment)
    finally:
        close(experiment.trainer.loggers)


def _execute(experiment: Experiment) -> dict[str, Any]:
    config, trainer, method = experiment.config, experiment.trainer, experiment.method
    started = time.perf_counter()
    trainer.fit(experiment.classifier, datamodule=experiment.datamodule, ckpt_path=config.resume)
    fit_seconds = time.perf_counter() - started
    if trainer.interrupted:
        raise KeyboardInterrupt
    summary: Any = method.summary  # type: ignore[attr-defined]
    decoded = new_network(config, experiment.datamodule)
    started = time.perf_counter()
    getattr(method, "load_into", load_into)(decoded, summary.path)
    decode_seconds = time.perf_counter() - started
    floating = new_network(config, experiment.datamodule)
    assert experiment.snapshot.state is not None  # taken at the latest when training ended
    floating.load_state_dict(experiment.snapshot.state)
    device = trainer.strategy.root_device
    val, test = (
        {
            name: accuracy(network, loader, device)
            for name, network in (("float", floating), ("decoded", decoded))
        }
        for loader in (
            experiment.datamodule.val_dataloader(),
            experiment.datamodule.test_dataloader(),
        )
    )
    if trainer.is_global_zero:
        before, after = floating.state_dict(), decoded.state_dict()
        draw_weights(before, after, experiment.folder / "weights.png")
    size = float_bytes(floating)
    file_bytes = Path(summary.path).stat().st_size
    results = {
        "model": config.model.name,
        "dataset": type(experiment.datamodule).__name__.lower(),
        "method": method_name(config),
        "pruning": _choice(config, "pruning"),
        "coder": config.coder.name,
        "seed": config.seed,
        "order": getattr(method, "order", None),
        "num_levels": getattr(method, "num_levels", None),
        "lambda_entropy": getattr(method, "lambda_entropy", None),
        "float_accuracy": test["float"],
        "accuracy": test["decoded"],
        "error": 1.0 - test["decoded"],
        "float_val_accuracy": val["float"],
        "val_accuracy": val["decoded"],  # settings are chosen by this one
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
        "file": Path(summary.path).name,
        "torch": torch.__version__,
        "device": str(device),
        "overrides": list(HydraConfig.get().overrides.task),
        "config_hash": config_hash(config),
        "tensors": tensor_rows(summary),
    }
    if trainer.is_global_zero:
        log_file(trainer.loggers, results, decoded.state_dict(), Path(summary.path))
    return results


def method_name(config: DictConfig) -> str:
    """Name of what wrote the file: `hemp`, or the baseline of `quantization=`."""
    if _part(config, "hemp"):
        return "hemp"
    return _choice(config, "quantization") if _part(config, "quantization") else "lloyd_max"


def zero_share(network: nn.Module) -> float:
    """Share of the entries of the weight tensors (two dimensions or more) that are exactly 0.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.eye_(layer.weight)
        >>> zero_share(layer)
        0.5
    """
    weights = [p for p in network.parameters() if p.ndim > 1]
    zeros = sum(int((p == 0).sum()) for p in weights)
    return zeros / max(1, sum(p.numel() for p in weights))


def finished(config: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The results in a run folder, if they are of this very configuration."""
    try:
        results = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError):
        return None
    return results if results.get("config_hash") == config_hash(config) else None


def config_hash(config: DictConfig) -> str:
    """Hash of all that can change a result; paths of the run folder are left out."""
    plain = OmegaConf.to_container(config, resolve=False)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _method(config: DictConfig, folder: Path) -> Callback:
    hemp, quantization = _part(config, "hemp"), _part(config, "quantization")
    if hemp and quantization:
        raise ValueError(
            "`hemp` and `quantization`: expected one of the two, each writes the file; found both. "
            "Type hemp=none or quantization=none"
        )
    get_coder(config.coder.name)  # an unknown name shows before training, not after
    chosen = hemp or quantization
    if not chosen:
        return PostTraining(path=folder / "model.hemp", coder=config.coder.name)
    method = instantiate(chosen)
    start, epochs = getattr(method, "start_epoch", -1), config.trainer.max_epochs
    untrained = epochs == 0 and bool(hemp)  # quantizes the network as it is
    if start >= epochs and not untrained:
        raise ValueError(
            f"`start_epoch`: expected less than the {epochs} epochs of training, or the method "
            f"never sets in; found {start}. Raise `epochs` or lower `float_epochs`"
        )
    return method


def _part(config: DictConfig, group: str) -> DictConfig | None:
    """What a group chose; None for `none`, also where an experiment has left settings for it."""
    part = config.get(group)
    return part if part and "_target_" in part else None


def _choice(config: DictConfig, group: str) -> str:
    part = _part(config, group)
    return str(part.get("name", "none")) if part else "none"


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}


def _optional(part: DictConfig | None) -> Any:
    return instantiate(part) if part else None
