"""A network measured by its task: the float one, and the one that was decoded from the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf
from torch import nn

from hemp_lightning.suite.logs import quiet
from hemp_lightning.suite.parts import Data, Measured, new_task

_LIMITS = ("limit_val_batches", "limit_test_batches")


@dataclass(frozen=True)
class Metric:
    """What networks are compared by.

    Attributes:
        name: Logged by the task as `val/NAME` and `test/NAME`.
        mode: `max` or `min`, which is better.
    """

    name: str
    mode: str

    def error(self, value: float) -> float:
        """The number to minimise: what is missing to 1 of an accuracy.

        Example:
            >>> Metric("accuracy", "max").error(0.75), Metric("perplexity", "min").error(3.0)
            (0.25, 3.0)
        """
        if self.mode == "min":
            return value
        return 1.0 - value if self.name == "accuracy" else -value


def metric_of(config: DictConfig, task: LightningModule) -> Metric:
    """The metric of a task: `task.metric`, else what its class says.

    Raises:
        ValueError: Nobody says it, or the mode is neither `max` nor `min`.
    """
    name, mode = config.task.get("metric"), config.task.get("mode")
    if isinstance(task, Measured):
        name, mode = name or task.metric, mode or task.mode
    if name is None:
        raise ValueError(
            f"`task.metric`: expected the name of a metric that {type(task).__name__} logs as "
            "val/NAME and test/NAME; found none. Type task.metric=NAME task.mode=max, or give the "
            "class the attributes `metric` and `mode`"
        )
    mode = mode or "max"
    if mode not in ("max", "min"):
        raise ValueError(f"`task.mode`: expected max or min, which is better; found {mode!r}")
    return Metric(str(name), str(mode))


def measure(
    config: DictConfig, data: Data, network: nn.Module, metric: Metric, split: str
) -> float:
    """The metric of a network on a split, by a task of its own that has no teacher.

    Args:
        config: The composed configuration; `trainer` says the device and how many batches.
        data: The dataset.
        network: Measured in evaluation mode.
        metric: What to measure.
        split: `val` or `test`. A task without `test_step` validates on the test split.

    Raises:
        ValueError: The task does not log the metric.
    """
    task = new_task(config, data, network)
    limits: dict[str, Any] = {k: config.trainer[k] for k in _LIMITS if k in config.trainer}
    tested = split == "test" and is_overridden("test_step", task)
    with quiet():
        trainer = Trainer(
            accelerator=config.trainer.get("accelerator", "auto"),
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **limits,
        )
        if tested:
            found = trainer.test(task, datamodule=data.module, verbose=False)
        elif split == "test":
            data.module.setup("test")
            found = trainer.validate(task, data.module.test_dataloader(), verbose=False)
        else:
            found = trainer.validate(task, datamodule=data.module, verbose=False)
    key = f"{'test' if tested else 'val'}/{metric.name}"
    logged = {name: value for metrics in found for name, value in metrics.items()}
    if key not in logged:
        raise ValueError(
            f"`task.metric`: expected {type(task).__name__} to log `{key}`; found "
            f"{', '.join(sorted(logged)) or 'nothing logged'}. Type task.metric=NAME"
        )
    return float(logged[key])


def check_metric(config: DictConfig, data: Data, network: nn.Module, metric: Metric) -> None:
    """Check before training, on one batch, that an own task logs its metric.

    Raises:
        ValueError: It does not.
    """
    tried = config.copy()
    OmegaConf.update(tried, "trainer.limit_val_batches", 1, force_add=True)
    training = network.training
    measure(tried, data, network, metric, "val")
    network.train(training)


def leave_processes() -> None:
    """End the group of processes that trained; one of them evaluates."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
