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

    Runs `training_step` as in training, with all but the norms in evaluation mode. Changes no
    parameter, and leaves the random state as it was. Does nothing without a BatchNorm. Where it
    cannot run, the statistics of the training stay, and a warning says why.

    Args:
        trainer: Trainer with a training loader.
        pl_module: Its LightningModule.
        module: `pl_module` or the part of it whose norms are recalibrated.
        num_batches: Training batches to average over, at most as many as an epoch has; 0 for none.
    """
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.track_running_stats
    ]
    if not norms or not num_batches:
        return
    if not pl_module.automatic_optimization:
        _keep("with manual optimization `training_step` would train")
        return
    before = [{key: value.clone() for key, value in norm.named_buffers()} for norm in norms]
    limit = int(min(num_batches, trainer.num_training_batches))
    reason = "the training loader gave no batch"
    try:
        with _recalibrating(pl_module, norms):
            found = _run(trainer, pl_module, limit)
    except Exception as error:  # whatever a user's `training_step` raises: the training counts
        found, reason = 0, f"`training_step` raised {type(error).__name__}: {error}"
    if not found:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        _keep(reason)
        return
    for norm in norms:
        for buffer in (norm.running_mean, norm.running_var):
            assert buffer is not None
            buffer.copy_(trainer.strategy.reduce(buffer, reduce_op="mean"))


def _keep(reason: str) -> None:
    rank_zero_warn(
        f"BatchNorm statistics are not recalibrated: {reason}. The file holds the running "
        "statistics of the training"
    )


@contextmanager
def _recalibrating(pl_module: LightningModule, norms: list[_BatchNorm]) -> Iterator[None]:
    """Norms that average over all they see, all else in evaluation mode, nothing logged."""
    momenta = [norm.momentum for norm in norms]
    modes = [(part, part.training) for part in pl_module.modules()]
    gradients = [(parameter, parameter.grad) for parameter in pl_module.parameters()]
    pl_module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    # compiled for one pass over a few batches, a network would take longer than it saves
    eager = torch.compiler.set_stance("force_eager")
    devices = [pl_module.device] if pl_module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad(), _silent(pl_module), eager:
            torch.manual_seed(0)  # the order of batches is the same after a resume
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes:
            part.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _run(trainer: Trainer, pl_module: LightningModule, limit: int) -> int:
    """Run `training_step` on at most `limit` batches; their number."""
    batches = islice(_batches(trainer), limit)
    parameters = inspect.signature(pl_module.training_step).parameters
    takes_iterator, takes_index = "dataloader_iter" in parameters, len(parameters) > 1
    count = 0

    def counted() -> Iterator[Any]:
        nonlocal count
        for index, batch in enumerate(batches):
            if not takes_iterator:
                batch = trainer.precision_plugin.convert_input(batch)
                batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
                batch = trainer.strategy.batch_to_device(batch, pl_module.device)
            count += 1
            yield (batch, index, 0)

    steps = counted()
    while True:
        given: tuple[Any, ...]
        try:
            given = (steps,) if takes_iterator else next(steps)[: 1 + takes_index]
            before = count
            with trainer.precision_plugin.train_step_context():
                pl_module.training_step(*given)
        except StopIteration:
            return count
        if takes_iterator and count == before:
            return count


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
