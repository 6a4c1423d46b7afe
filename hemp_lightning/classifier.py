"""The LightningModule that the suite trains: a network, cross entropy, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy


class Classifier(LightningModule):
    """Image classification with cross entropy.

    Args:
        network: Maps images `(batch, channels, size, size)` to scores `(batch, num_classes)`.
        num_classes: Size of the output.
        optimizer: Makes the optimizer from the parameters, `functools.partial(Adam, lr=1e-3)`.
        scheduler: Makes the scheduler from the optimizer and the lengths of the phases in steps, as
            the functions in `hemp_lightning.schedules`; None keeps the learning rate.
        restart_epoch: Epoch at which the schedule starts again, because a compression method sets
            in there; 0 for one phase only.

    Example:
        >>> module = Classifier(nn.Linear(4, 3), 3, torch.optim.Adam)
        >>> [name for name, _ in module.named_parameters()]
        ['network.weight', 'network.bias']
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer, Sequence[int]], LRScheduler] | None = None,
        restart_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.restart_epoch = restart_epoch
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float `(batch, num_classes)`."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The cross entropy of a batch, in nats."""
        images, labels = batch
        scores = self.network(images)
        loss = F.cross_entropy(scores, labels)
        self.train_accuracy(scores.detach(), labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the accuracy on the validation part."""
        images, labels = batch
        scores = self.network(images)
        self.val_accuracy(scores, labels)
        self.log("val/loss", F.cross_entropy(scores, labels), on_epoch=True)
        self.log("val/accuracy", self.val_accuracy, on_epoch=True, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy on the test split."""
        images, labels = batch
        self.test_accuracy(self.network(images), labels)
        self.log("test/accuracy", self.test_accuracy, on_epoch=True)

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler stepped after each optimizer step."""
        optimizer = self.optimizer(self.network.parameters())
        if self.scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = max(self.trainer.max_epochs or 1, 1)
        first = min(self.restart_epoch, epochs) * steps // epochs
        schedule = self.scheduler(optimizer, [first, steps - first])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


@torch.no_grad()
def accuracy(network: nn.Module, batches: Any, device: torch.device | str = "cpu") -> float:
    """Share of samples whose highest score is the right class.

    Args:
        network: Maps images to scores; evaluated in eval mode, its mode restored.
        batches: Gives pairs of images `(batch, ...)` and int64 labels `(batch,)`.
        device: Where to compute.

    Returns:
        A fraction from 0 to 1.

    Example:
        >>> scores = torch.eye(4)
        >>> accuracy(nn.Identity(), [(scores, torch.tensor([0, 1, 2, 0]))])
        0.75
    """
    training = network.training
    network.eval().to(device)
    right = total = 0
    for images, labels in batches:
        found = network(images.to(device)).argmax(1)
        right += int((found == labels.to(device)).sum())
        total += len(labels)
    network.train(training)
    return right / total
