"""The LightningModule that the suite trains: a network, cross entropy, accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from hemp_lightning.suite.schedules import configured


class Classifier(LightningModule):
    """Image classification with cross entropy.

    Args:
        network: Maps images `(batch, channels, size, size)` to scores `(batch, num_classes)`.
        num_classes: Size of the output.
        optimizer: Makes the optimizer from the parameters, `functools.partial(Adam, lr=1e-3)`.
        scheduler: Makes the scheduler from the optimizer and the lengths of the phases in steps, as
            the functions in `hemp_lightning.suite.schedules`; None keeps the learning rate.
        restart_epoch: Epoch at which the schedule starts again, because a compression method sets
            in there; 0 for one phase only.
        distillation: Share of the loss, 0 to 1, that compares with the scores of a teacher once
            there is one (`learn_from`); 0 for labels alone.
        temperature: Divides the scores in that comparison.
        teacher: Trained network for the same images and classes; None for a copy of `network`.
        compile: `torch.compile` the network in place, and the teacher.

    Raises:
        ValueError: `distillation` or `temperature` is out of its range.

    Example:
        >>> module = Classifier(nn.Linear(4, 3), 3, torch.optim.Adam)
        >>> [name for name, _ in module.named_parameters()]
        ['network.weight', 'network.bias']
    """

    metric, mode = "accuracy", "max"  # what the suite compares networks by

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer, Sequence[int]], LRScheduler] | None = None,
        restart_epoch: int = 0,
        distillation: float = 0.0,
        temperature: float = 4.0,
        teacher: nn.Module | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= distillation <= 1:
            raise ValueError(
                f"`distillation` must be between 0 and 1, a share of the loss; found {distillation}"
            )
        if not temperature > 0:
            raise ValueError(f"`temperature` must be above 0; found {temperature}")
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.restart_epoch = restart_epoch
        self.distillation = distillation
        self.temperature = temperature
        self._compiles = compile
        if compile:
            network.compile(dynamic=False)  # in place: the names of its tensors stay
        self._other = () if teacher is None else (teacher,)  # in tuples: no part of state_dict
        self._teacher: tuple[nn.Module, ...] = ()
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float `(batch, num_classes)`."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The cross entropy of a batch, in nats, plus distillation if there is a teacher."""
        images, labels = batch
        scores = self.network(images)
        loss = F.cross_entropy(scores, labels)
        for teacher in self._teacher:
            with torch.no_grad():
                taught = teacher(images)
            distance = distillation_loss(scores, taught, self.temperature)
            loss = (1 - self.distillation) * loss + self.distillation * distance
        self.train_accuracy(scores.detach(), labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def learn_from(self, state: Mapping[str, Tensor]) -> None:
        """Begin to learn from the teacher; without distillation do nothing.

        Args:
            state: A `state_dict` of this network, copied: the teacher, if no other was given. The
                teacher is not trained, and not in checkpoints.
        """
        if self.distillation == 0 or self._teacher:
            return
        if self._other:
            teacher = self._other[0].to(self.device)
        else:
            teacher = copy.deepcopy(self.network)
            teacher.load_state_dict(state)
        teacher = _folded(teacher.eval().requires_grad_(False))
        if self._compiles:
            teacher.compile(dynamic=False)
        self._teacher = (teacher,)

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
        return configured(self, self.optimizer, self.scheduler, self.restart_epoch)


def _folded(network: nn.Module) -> nn.Module:
    """A copy that evaluates quicker, norms folded into convolutions; itself if fx cannot trace."""
    try:
        return fuse(network)
    except Exception:  # whatever a forward pass may raise when its input is no tensor
        return network


def distillation_loss(scores: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Divergence of the softened predictions from a teacher's, times the squared temperature.

    Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015, section 2.

    Args:
        scores: Scores of the network, float `(batch, num_classes)`.
        taught: Scores of the teacher, the same shape.
        temperature: Divides both.

    Returns:
        Scalar, nats per sample; 0 where both agree.

    Example:
        >>> scores = torch.tensor([[0.0, 0.0]])
        >>> taught = torch.tensor([[1.0, 3.0]]).log()
        >>> round(distillation_loss(scores, taught, 1.0).item(), 4)
        0.1308
    """
    return temperature**2 * F.kl_div(
        F.log_softmax(scores / temperature, 1),
        F.log_softmax(taught / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )


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
