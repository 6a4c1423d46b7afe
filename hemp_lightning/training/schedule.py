"""When the terms act and when codebooks are fitted, in epochs and optimizer steps."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


class Schedule:
    """Where a fit stands, and what is due then.

    Args:
        start_epoch: Epochs of plain float training.
        warmup_epochs: Epochs over which both lambdas rise linearly from 0.
        refit_every_n_epochs: Refit at the start of every n-th epoch; 0 for never.
        refit_every_n_steps: Refit after every n-th optimizer step; 0 for never.
        end_epoch: Epoch from which on both lambdas are 0; None for never.

    Example:
        >>> from types import SimpleNamespace
        >>> schedule = Schedule(2, 4.0, 1, 0)
        >>> schedule.ramp(SimpleNamespace(current_epoch=3))
        0.25
    """

    def __init__(
        self,
        start_epoch: int,
        warmup_epochs: float,
        refit_every_n_epochs: int,
        refit_every_n_steps: int,
        end_epoch: int | None = None,
    ) -> None:
        self._start_epoch = start_epoch
        self._end_epoch = float("inf") if end_epoch is None else end_epoch
        self._warmup_epochs = warmup_epochs
        self._every_n_epochs = refit_every_n_epochs
        self._every_n_steps = refit_every_n_steps
        self._last_refit = -1  # optimizer step
        self._last_epoch = -1  # whose start was seen
        self._batch_fraction = 0.0

    def has_started(self, trainer: Trainer) -> bool:
        """Whether the epochs of plain float training are over."""
        return trainer.current_epoch >= self._start_epoch

    def start_batch(self, trainer: Trainer, batch_idx: int) -> bool:
        """Note that a batch begins.

        Returns:
            Whether an epoch begins with it. A run resumed after the last batch of an epoch skips
            Lightning's own hook for that.
        """
        total = trainer.num_training_batches
        self._batch_fraction = batch_idx / total if 0 < total < float("inf") else 0.0
        begins = trainer.current_epoch != self._last_epoch
        self._last_epoch = trainer.current_epoch
        return begins

    def ramp(self, trainer: Trainer) -> float:
        """Factor of both lambdas, from 0 to 1, linear over `warmup_epochs`; 0 at the end."""
        if trainer.current_epoch >= self._end_epoch:
            return 0.0
        if not self._warmup_epochs:
            return 1.0
        epochs = trainer.current_epoch - self._start_epoch + self._batch_fraction
        return min(1.0, max(0.0, epochs / self._warmup_epochs))

    def is_refit_epoch(self, trainer: Trainer) -> bool:
        """Whether a refit is due at the start of this epoch."""
        since, every = trainer.current_epoch - self._start_epoch, self._every_n_epochs
        return since >= 0 and bool(every and since % every == 0)

    def is_refit_step(self, trainer: Trainer) -> bool:
        """Whether a refit is due after this optimizer step, and has not been made."""
        step, every = trainer.global_step, self._every_n_steps
        return bool(every and step % every == 0) and step != self._last_refit

    def note_refit(self, trainer: Trainer) -> None:
        """A refit was made now."""
        self._last_refit = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """When codebooks were last fitted, and the last epoch whose start was seen."""
        return {"last_refit": self._last_refit, "last_epoch": self._last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any], refits: bool = False) -> None:
        """Go on from `state_dict`; with `refits`, as if the epoch had not yet begun."""
        self._last_refit = state_dict["last_refit"]
        self._last_epoch = -1 if refits else state_dict["last_epoch"]
