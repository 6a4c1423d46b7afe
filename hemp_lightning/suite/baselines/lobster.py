"""LOBSTER: pruning by what the loss feels of each weight."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from hemp_lightning.suite.baselines.lsq import LSQ
from hemp_lightning.suite.baselines.pruning import Pruning
from hemp_lightning.suite.baselines.weights import network_of, weights_of
from hemp_lightning.training.callback import HEMPCallback


class LOBSTER(Pruning):
    """Loss-based sensitivity regularization: decay what the loss does not feel, then threshold.

    After each step a weight is decayed by `lambda_decay * w * (1 - |dL/dw|)` where the gradient
    is less than 1. When the validation loss has not improved for `patience` epochs, all weights
    below the largest threshold that lets it grow by no more than the share `tolerance` are set to
    0 for good.

    Source: Tartaglione, Bragagnolo, Fiandrotti, Grangetto, LOss-Based SensiTivity rEgularization:
    towards deep sparse neural networks, Neural Networks 146, 2022, equation 9 and algorithm 1.

    Args:
        lambda_decay: Share of a weight without effect on the loss that a step takes away.
        tolerance: How much larger the validation loss may be after thresholding, as a share.
        patience: Epochs without a better validation loss before thresholding.
        start_epoch: Epoch at which decay starts.
        end_epoch: Epoch from which on nothing more is decayed or pruned; None: the last one.
        bisections: Halvings of the interval in which the threshold is looked for.
    """

    def __init__(
        self,
        lambda_decay: float = 1e-4,
        tolerance: float = 0.05,
        patience: int = 2,
        start_epoch: int = 0,
        end_epoch: int | None = None,
        bisections: int = 8,
        name: str = "lobster",
    ) -> None:
        super().__init__(name)
        for argument, value in (("lambda_decay", lambda_decay), ("tolerance", tolerance)):
            if value < 0.0:
                raise ValueError(f"`pruning.{argument}`: expected 0 or more; found {value}")
        self.lambda_decay = lambda_decay
        self.tolerance = tolerance
        self.patience = patience
        if end_epoch is not None and end_epoch <= start_epoch:
            raise ValueError(
                f"`pruning.end_epoch`: expected more than {start_epoch} (`start_epoch`); "
                f"found {end_epoch}"
            )
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.bisections = bisections
        self._insensitivity: dict[str, Tensor] = {}
        self._best, self._waited = float("inf"), 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to stand behind what adds to the gradient of the loss.

        Raises:
            ValueError: HEMPCallback comes first.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        before = callbacks[: callbacks.index(self)]
        if stage == "fit" and any(isinstance(other, HEMPCallback) for other in before):
            raise ValueError(
                "`callbacks` must list LOBSTER before HEMPCallback, which adds to the gradient of "
                "the loss; found it behind. Move it to the front"
            )

    def is_active(self, trainer: Trainer) -> bool:
        """Whether weights decay and are pruned now."""
        end = float("inf") if self.end_epoch is None else self.end_epoch
        return self.start_epoch <= trainer.current_epoch < end

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Keep `1 - |gradient|`, before another callback adds to the gradient."""
        if self.is_active(trainer):
            self._insensitivity = {
                name: (1.0 - weight.grad.abs()).clamp_(min=0.0)
                for name, weight in weights_of(pl_module).items()
                if weight.grad is not None
            }

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decay, once for each optimizer step, and hold the pruned weights at 0."""
        weights = weights_of(pl_module)
        for name, insensitivity in self._insensitivity.items():
            weights[name].mul_(1.0 - self.lambda_decay * insensitivity)
        self._insensitivity = {}
        self.apply_masks(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Threshold if the validation loss has stopped falling, and at the end of training."""
        if self.is_active(trainer) and trainer.val_dataloaders is not None:
            loss = self._loss(trainer, pl_module)
            self._waited = 0 if loss < self._best else self._waited + 1
            self._best = min(self._best, loss)
            last = trainer.current_epoch + 1 in (trainer.max_epochs, self.end_epoch)
            if self._waited >= self.patience or last:
                self._threshold(trainer, pl_module, loss)
                self._best, self._waited = float("inf"), 0
        super().on_train_epoch_end(trainer, pl_module)

    @torch.no_grad()
    def _threshold(self, trainer: Trainer, pl_module: LightningModule, loss: float) -> None:
        weights = weights_of(pl_module)
        kept = {name: weight.detach().clone() for name, weight in weights.items()}
        low, high = 0.0, max(float(weight.abs().max()) for weight in weights.values())
        for _ in range(self.bisections):
            middle = (low + high) / 2
            for name, weight in weights.items():
                weight.copy_(kept[name] * (kept[name].abs() >= middle))
            if self._loss(trainer, pl_module) <= (1.0 + self.tolerance) * loss:
                low = middle
            else:
                high = middle
        self.masks = {name: (kept[name].abs() >= low) & (kept[name] != 0) for name in weights}
        for name, weight in weights.items():
            weight.copy_(kept[name] * self.masks[name])

    @torch.no_grad()
    def _loss(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """Validation loss of the network that is tested: quantized, if a callback quantizes it."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        quantizing = [c for c in callbacks if isinstance(c, (HEMPCallback, LSQ))]
        network = network_of(pl_module)
        network.eval()
        for callback in quantizing:
            callback.on_test_start(trainer, pl_module)
        total, count = 0.0, 0
        for images, labels in trainer.val_dataloaders or ():
            scores = network(images.to(pl_module.device))
            labels = labels.to(pl_module.device)
            total += float(F.cross_entropy(scores, labels, reduction="sum"))
            count += len(labels)
        for callback in quantizing:
            callback.on_test_end(trainer, pl_module)
        network.train()
        return total / count

    def state_dict(self) -> dict[str, Any]:
        """Masks and what the plateau is judged by."""
        return {**super().state_dict(), "best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them from a checkpoint."""
        super().load_state_dict(state_dict)
        self._best, self._waited = state_dict["best"], state_dict["waited"]
