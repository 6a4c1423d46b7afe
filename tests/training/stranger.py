"""A module that no test wrote for the callback, and a fit of it."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Stranger(LightningModule):
    """A small network with everything that makes trouble: BatchNorm, an embedding tied to the
    output, a frozen layer, a parameter without gradient."""

    def __init__(self, optimizer=torch.optim.Adam, rate=1e-2):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)
        )
        self.frozen = nn.Linear(10, 10)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 2)
        self.embedding = nn.Embedding(4, 10)
        self.output = nn.Linear(10, 4, bias=False)
        self.output.weight = self.embedding.weight
        self.optimizer, self.rate = optimizer, rate
        self.seen = []

    def forward(self, x):
        weights = self.net[0].weight.detach().clone()
        if self.training:
            self.seen.append(weights)
        else:
            self.seen_in_validation = weights
        return self.output(self.frozen(self.net(x)))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        parameters = [p for p in self.parameters() if p.requires_grad]
        return self.optimizer(parameters, lr=self.rate)


class ResumableLoader(DataLoader):
    """Goes on where a checkpoint left it, which is what resuming bit for bit takes."""

    first = position = 0

    def __iter__(self):
        first, self.first = self.first, 0
        for n, batch in enumerate(super().__iter__()):
            if n >= first:
                self.position = n + 1
                yield batch

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.first = state["position"] % len(self)


def loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 6, 6, generator=generator)
    return ResumableLoader(TensorDataset(images, torch.arange(64) % 4), batch_size=8)


def fit(module, *callbacks, epochs=2, ckpt_path=None, **options):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **({"enable_checkpointing": False} | options),
    )
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return trainer


def stranger(**options):
    seed_everything(1, verbose=False)
    return Stranger(**options)
