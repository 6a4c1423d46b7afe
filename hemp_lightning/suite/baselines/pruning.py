"""Pruning: weights set to exactly 0, and held there, while any other method goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from hemp_lightning.suite.baselines.lsq import LSQ
from hemp_lightning.suite.baselines.weights import network_of, weights_of
from hemp_lightning.training.callback import HEMPCallback

SCOPES = ("tensor", "network")


def magnitude_masks(
    weights: Mapping[str, Tensor], share: float, scope: str = "network"
) -> dict[str, Tensor]:
    """Masks that drop the given share of the weights, those of least magnitude.

    Args:
        weights: Tensors by name.
        share: Share to drop, 0 or more and less than 1; rounded down to whole weights.
        scope: `"tensor"`: that share of each tensor; `"network"`: of all together.

    Returns:
        For each tensor a bool tensor of its shape, True where a weight stays.

    Example:
        >>> masks = magnitude_masks({"w": torch.tensor([0.1, -3.0, 2.0, -0.2])}, 0.5)
        >>> masks["w"].tolist()
        [False, True, True, False]
    """
    if scope == "tensor":
        flat = {name: _largest(weight.abs().flatten(), share) for name, weight in weights.items()}
        return {name: flat[name].view(weight.shape) for name, weight in weights.items()}
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    parts = _largest(magnitudes, share).split([weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def cubic_share(progress: float, share: float) -> float:
    """Share to drop on the way to `share`: fast at first, slow at the end.

    Source: Zhu and Gupta, To prune, or not to prune, 2017, equation 1, from an initial share of 0.

    Example:
        >>> round(cubic_share(0.5, 0.8), 6)
        0.7
    """
    return share * (1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3)


class Pruning(Callback):
    """What all pruning has in common: masks, applied after each optimizer step.

    Parameter names and state-dict keys are never changed.

    Attributes:
        masks: For each pruned tensor a bool tensor, True where a weight stays.
    """

    def __init__(self) -> None:
        self.masks: dict[str, Tensor] = {}

    @torch.no_grad()
    def apply_masks(self, pl_module: LightningModule) -> None:
        """Set the masked weights to 0."""
        weights = weights_of(pl_module)
        for name, mask in self.masks.items():
            weights[name].mul_(mask.to(weights[name].device))

    def kept_share(self) -> float:
        """Share of the weights that stay; 1 before anything was pruned."""
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        return kept / max(1, sum(m.numel() for m in self.masks.values())) if self.masks else 1.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The optimizer may have moved pruned weights: back to 0."""
        self.apply_masks(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of weights that stay."""
        pl_module.log("pruning/kept", self.kept_share())

    def state_dict(self) -> dict[str, Any]:
        """The masks go into checkpoints."""
        return {"masks": self.masks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the masks from a checkpoint."""
        self.masks = state_dict["masks"]


class MagnitudePruning(Pruning):
    """Drop the weights of least magnitude, at once or gradually.

    Args:
        share: Share of the weights to drop.
        scope: `"network"` ranks all weights together, `"tensor"` each tensor by itself.
        start_epoch: Epoch at which pruning starts.
        end_epoch: Epoch from which on the full share is dropped; equal to `start_epoch`: at once.
            Between the two the share follows `cubic_share`.
        every_n_steps: Steps between two updates of the masks on the way.
    """

    def __init__(
        self,
        share: float = 0.9,
        scope: str = "network",
        start_epoch: int = 0,
        end_epoch: int | None = None,
        every_n_steps: int = 50,
        name: str = "magnitude",
    ) -> None:
        super().__init__()
        if not 0.0 <= share < 1.0:
            raise ValueError(f"`pruning.share`: expected 0 or more and less than 1; found {share}")
        if scope not in SCOPES:
            raise ValueError(f"`pruning.scope`: expected one of {SCOPES}; found {scope!r}")
        end_epoch = start_epoch if end_epoch is None else end_epoch
        if end_epoch < start_epoch:
            raise ValueError(
                f"`pruning.end_epoch`: expected {start_epoch} (`start_epoch`) or more; "
                f"found {end_epoch}"
            )
        self.share = share
        self.scope = scope
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.every_n_steps = every_n_steps
        self.name = name

    def share_at(self, epoch: float) -> float:
        """Share to drop at a point of training, in epochs and fractions of them."""
        if epoch < self.start_epoch:
            return 0.0
        if epoch >= self.end_epoch:
            return self.share
        progress = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        return cubic_share(progress, self.share)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Update the masks where that is due; the last update is at `end_epoch`."""
        due = batch_idx % self.every_n_steps == 0
        epoch = trainer.current_epoch + batch_idx / max(1, float(trainer.num_training_batches))
        share = self.share_at(epoch)
        if due and share > 0.0 and self.kept_share() > 1.0 - self.share + 1e-6:
            weights = {k: w.detach() for k, w in weights_of(pl_module).items()}
            self.masks = magnitude_masks(weights, share, self.scope)
            self.apply_masks(pl_module)


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
        bisections: Halvings of the interval in which the threshold is looked for.
    """

    def __init__(
        self,
        lambda_decay: float = 1e-4,
        tolerance: float = 0.05,
        patience: int = 2,
        start_epoch: int = 0,
        bisections: int = 8,
        name: str = "lobster",
    ) -> None:
        super().__init__()
        for argument, value in (("lambda_decay", lambda_decay), ("tolerance", tolerance)):
            if value < 0.0:
                raise ValueError(f"`pruning.{argument}`: expected 0 or more; found {value}")
        self.lambda_decay = lambda_decay
        self.tolerance = tolerance
        self.patience = patience
        self.start_epoch = start_epoch
        self.bisections = bisections
        self.name = name
        self._insensitivity: dict[str, Tensor] = {}
        self._best, self._waited = float("inf"), 0

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Keep `1 - |gradient|`, before another callback adds to the gradient."""
        if trainer.current_epoch >= self.start_epoch:
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
        if trainer.current_epoch >= self.start_epoch and trainer.val_dataloaders is not None:
            loss = self._loss(trainer, pl_module)
            self._waited = 0 if loss < self._best else self._waited + 1
            self._best = min(self._best, loss)
            last = trainer.current_epoch + 1 == trainer.max_epochs
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


def _largest(magnitudes: Tensor, share: float) -> Tensor:
    """True for all but the int(share * n) smallest entries; of equal ones the first are kept."""
    count = magnitudes.numel()
    keep = torch.ones(count, dtype=torch.bool, device=magnitudes.device)
    order = magnitudes.argsort(stable=True, descending=True)
    keep[order[count - int(share * count) :]] = False
    return keep
