"""Both terms within a fit: added to each optimizer step, steered, and logged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from hemp_lightning.training.entropy_term import EntropyTerm, log_terms, stepped_names
from hemp_lightning.training.quantized_network import QuantizedNetwork
from hemp_lightning.training.step_watch import StepWatch
from hemp_lightning.training.target_steering import Approach, index_rate


@dataclass(frozen=True)
class Lambdas:
    """Factors of the two terms at some step.

    Attributes:
        entropy: Of the rate.
        reconstruction: Of the distortion.
        ramp: Of both, 0 to 1.
    """

    entropy: float
    reconstruction: float
    ramp: float


class SteppedTerms:
    """Adds both terms to the steps of one fit.

    Args:
        term: What is added.
        network: To whose parameters.
        approach: Asked to move lambda before each step.
    """

    def __init__(self, term: EntropyTerm, network: QuantizedNetwork, approach: Approach) -> None:
        self._term = term
        self._network = network
        self._approach = approach
        self._watch: StepWatch | None = None
        self._unstepped = 0  # batches since a step has got the terms

    def start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        lambdas: Callable[[], Lambdas | None],
    ) -> None:
        """Watch the optimizers from now on.

        Args:
            trainer: Trainer whose fit begins.
            pl_module: Its LightningModule.
            lambdas: The factors of now, None where no terms act.
        """

        def parameters() -> set[int]:
            return set(map(id, self._network.trained.values())) if lambdas() else set()

        def add(optimizer: Optimizer) -> None:
            self._add(trainer, pl_module, optimizer, lambdas)

        self.stop()
        self._unstepped = 0
        self._watch = StepWatch(add, parameters)
        self._watch.start()

    def stop(self) -> None:
        """Watch no longer."""
        if self._watch:
            self._watch.stop()
            self._watch = None

    def announce(self, optimizer: Optimizer) -> None:
        """Add the terms now, for the step to come."""
        if self._watch:
            self._watch.announce(optimizer)

    def end_batch(self) -> None:
        """Count a batch in which the terms acted."""
        self._unstepped += 1

    def end_epoch(self, trainer: Trainer) -> None:
        """Warn if no optimizer has stepped the parameters for an epoch."""
        if 0 < trainer.num_training_batches <= self._unstepped:
            self._network.warn_of_no_step()

    @torch.no_grad()
    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        optimizer: Optimizer,
        lambdas: Callable[[], Lambdas | None],
    ) -> None:
        network, term = self._network, self._term
        trained, codebooks = network.trained, network.codebooks
        if not stepped_names(optimizer, trained):
            return
        self._unstepped = -1  # counted up at the end of this batch
        network.warn_of_unseen(optimizer)
        self._approach.follow_bytes(
            trainer, lambda: index_rate(network.parameters, codebooks, term.order, term.scan)
        )
        now = lambdas()
        if now is None:
            return
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        logs = trainer.global_step % every == 0
        rate, distortion = term.add(
            optimizer,
            trained,
            codebooks,
            now.entropy,
            now.reconstruction,
            now.ramp,
            whole=logs,
            tell=network.tell,
        )
        if logs:
            log_terms(pl_module, rate, distortion, now.ramp * now.entropy)
