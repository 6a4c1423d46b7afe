"""BatchNorm statistics taken anew, for the network as it will be decoded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def recalibrate(
    trainer: Trainer, pl_module: LightningModule, module: nn.Module, num_batches: int
) -> None:
    """Replace the running statistics of `module` by plain averages over training batches.

    Runs `training_step` without gradients, with all but the norms in evaluation mode. Changes no
    parameter, and leaves the random state as it was. Does nothing without a BatchNorm, and keeps
    the statistics, with a warning, where there is no batch to be had.

    Args:
        trainer: Trainer with a training loader.
        pl_module: Its LightningModule.
        module: `pl_module` or the part of it whose norms are recalibrated.
        num_batches: Training batches to average over; 0 for none.
    """
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.track_running_stats
    ]
    if not norms or not num_batches:
        return
    if not pl_module.automatic_optimization:
        rank_zero_warn(
            "BatchNorm statistics are not recalibrated: with manual optimization `training_step` "
            "would train. The file holds the running statistics of the training"
        )
        return
    momenta = [norm.momentum for norm in norms]
    modes = [(part, part.training) for part in pl_module.modules()]
    before = [{key: value.clone() for key, value in norm.named_buffers()} for norm in norms]
    index = -1
    pl_module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    # compiled for one pass over a few batches, a network would take longer than it saves
    eager = torch.compiler.set_stance("force_eager")
    takes_index = len(inspect.signature(pl_module.training_step).parameters) > 1
    devices = [pl_module.device] if pl_module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), _silent(pl_module), eager:
            torch.manual_seed(0)  # the order of batches is the same after a resume
            for index, batch in enumerate(islice(_batches(trainer), num_batches)):
                batch = trainer.strategy.batch_to_device(batch, pl_module.device)
                with trainer.precision_plugin.train_step_context():
                    pl_module.training_step(*((batch, index) if takes_index else (batch,)))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes:
            part.training = mode
    if index < 0:
        rank_zero_warn(
            "BatchNorm statistics are not recalibrated: the training loader gave no batch. The "
            "file holds the running statistics of the training"
        )
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        return
    for norm in norms:
        for buffer in (norm.running_mean, norm.running_var):
            assert buffer is not None
            buffer.copy_(trainer.strategy.reduce(buffer, reduce_op="mean"))


def _batches(trainer: Trainer) -> Iterator[Any]:
    loaders = trainer.train_dataloader
    if loaders is None:  # as with `limit_train_batches=0`
        return iter(())
    if isinstance(loaders, (list, tuple, dict)):
        return (batch for batch, _, _ in CombinedLoader(loaders, "min_size"))
    return iter(loaders)


@contextmanager
def _silent(pl_module: LightningModule) -> Iterator[None]:
    """Let `training_step` log nothing: Lightning refuses logging outside its loops."""
    pl_module.__dict__["log"] = pl_module.__dict__["log_dict"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del pl_module.__dict__["log"], pl_module.__dict__["log_dict"]
