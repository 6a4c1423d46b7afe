"""A small language model of characters: own data, own network and own task for `hemp run`.

The text is Python's own documentation of its language, which ships with Python.

    cd examples/characters
    hemp run --config-dir conf experiment=characters
"""

from __future__ import annotations

import math
from itertools import pairwise
from pydoc_data.topics import topics
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from hemp_lightning.suite.schedules import configured

FIRST, LAST = 32, 126  # printable ASCII; all else is one character more


class Documentation(LightningDataModule):
    """Blocks of characters and of the characters that follow them, both int64 `(length,)`.

    Args:
        length: Characters of a block.
        batch_size: Blocks of a batch.
    """

    num_classes = LAST - FIRST + 2

    def __init__(self, length: int = 128, batch_size: int = 64) -> None:
        super().__init__()
        self.length = length
        self.batch_size = batch_size

    def setup(self, stage: str | None = None) -> None:
        """Cut the text into blocks: 80 % to train, 10 % to validate, 10 % to test."""
        text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
        codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        codes = torch.where((codes < FIRST) | (codes > LAST), LAST + 1, codes) - FIRST
        count = (len(codes) - 1) // self.length
        inputs = codes[: count * self.length].view(count, self.length)
        targets = codes[1 : count * self.length + 1].view(count, self.length)
        cuts = [0, count * 8 // 10, count * 9 // 10, count]
        self.parts = [TensorDataset(inputs[a:b], targets[a:b]) for a, b in pairwise(cuts)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Blocks to train on, shuffled."""
        return DataLoader(self.parts[0], self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Blocks to validate on."""
        return DataLoader(self.parts[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Blocks to test on."""
        return DataLoader(self.parts[2], self.batch_size)


class CausalConvolutions(nn.Module):
    """Convolutions that look back alone, each twice as far as the one before.

    Args:
        num_classes: Number of different characters.
        width: Channels.
        depth: Number of convolutions; they see `2 * 2 ** depth - 1` characters.
    """

    def __init__(self, num_classes: int, width: int = 96, depth: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, width)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, 3, dilation=2**layer) for layer in range(depth)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, characters: Tensor) -> Tensor:
        """Scores of the next character, float `(batch, length, num_classes)`."""
        x = self.embedding(characters).transpose(1, 2)  # (batch, width, length)
        for layer in self.layers:
            x = x + F.relu(layer(F.pad(x, (2 * layer.dilation[0], 0))))
        return self.head(x.transpose(1, 2))


class NextCharacter(LightningModule):
    """Cross entropy of the next character, measured in bits.

    Args:
        network: Maps characters `(batch, length)` to scores; the suite writes it as the file.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the schedule of the learning rate.
        restart_epoch: Epoch at which the schedule starts again.
    """

    metric, mode = "bits_per_character", "min"

    def __init__(
        self, network: nn.Module, optimizer: Any, scheduler: Any = None, restart_epoch: int = 0
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.restart_epoch = restart_epoch
        self.bits = nn.ModuleDict({"val": MeanMetric(), "test": MeanMetric()})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss in nats per character."""
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the bits per character of the validation part."""
        self._measure("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the bits per character of the test part."""
        self._measure("test", batch)

    def configure_optimizers(self) -> Any:
        """The optimizer, and the schedule stepped after each of its steps."""
        return configured(self, self.optimizer, self.scheduler, self.restart_epoch)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        characters, following = batch
        return F.cross_entropy(self.network(characters).flatten(0, 1), following.flatten())

    def _measure(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        self.bits[split].update(self._loss(batch) / math.log(2), weight=len(batch[0]))
        self.log(f"{split}/{self.metric}", self.bits[split], on_epoch=True, prog_bar=True)
