"""Bytes of updates: `python benchmarks/updates.py`, with MNIST's files in `$HEMP_DATA/MNIST/raw`.

LeNet-5 is trained on 12,000 digits with the entropy term and written: yesterday's file, the base.
Then its last layer is trained on, or all layers for an epoch, or all for an epoch with another
lambda. Of each the table has the whole file, the update, and the difference of the bytes of the two
files by bsdiff and zstd, where `bsdiff4` and `zstandard` are installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import HEMPCallback, load, load_into
from hemp_lightning.file.updates import become_update
from hemp_lightning.suite.models import build

LAMBDA, OTHER = 2.0, 4.0


class Digits(LightningModule):
    """LeNet-5, of which some layers are trained."""

    def __init__(self, network: nn.Module, rate: float, layers: str = "") -> None:
        super().__init__()
        self.network, self.rate = network, rate
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(layers))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learned = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(learned, self.rate)


def digits(split: str, count: int) -> TensorDataset:
    """The first images of MNIST, and their labels."""
    folder = Path(os.environ.get("HEMP_DATA", "../shared/data")) / "MNIST" / "raw"
    pixels = np.fromfile(folder / f"{split}-images-idx3-ubyte", np.uint8)[16:]
    labels = np.fromfile(folder / f"{split}-labels-idx1-ubyte", np.uint8)[8 : 8 + count]
    images = torch.from_numpy(pixels.reshape(-1, 1, 28, 28)[:count]).float() / 255
    return TensorDataset((images - 0.1307) / 0.3081, torch.from_numpy(labels).long())


def train(module: Digits, path: Path, epochs: int, strength: float) -> None:
    """Train with the entropy term, and write the file."""
    hemp = HEMPCallback(
        order=2, num_levels=7, lambda_entropy=strength, path=str(path), module="network"
    )
    data = DataLoader(digits("train", 12_000), batch_size=128, shuffle=True)
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[hemp],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(module, data)


def accuracy(path: Path, base: Path | None = None) -> float:
    """Of the network in a file, on the test split."""
    network = load_into(build("lenet5"), path, base=base).eval()
    images, labels = digits("t10k", 10_000).tensors
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).float().mean())


def difference(module: str, work: Callable[[object], int]) -> str:
    """Bytes of a difference, if a package is installed."""
    try:
        return f"{work(importlib.import_module(module)):,}"
    except ModuleNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="of the base")
    epochs = parser.parse_args().epochs
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base.hemp"
        seed_everything(0)
        train(Digits(build("lenet5"), 2e-3), base, epochs, LAMBDA)
        print(f"base: {base.stat().st_size:,} bytes, {accuracy(base):.2%}", flush=True)
        cases = {
            "nothing": ("", 0.0, LAMBDA, 0),
            "last layer, an epoch": ("fc2", 5e-4, LAMBDA, 1),
            "all layers, an epoch": ("", 5e-4, LAMBDA, 1),
            "all layers, an epoch, lambda doubled": ("", 5e-4, OTHER, 1),
        }
        for case, (layers, rate, strength, count) in cases.items():
            whole, update = folder / "whole.hemp", folder / "update.hemp"
            shutil.copy(base, whole)
            if count:
                network = load_into(build("lenet5"), base)
                train(Digits(network, rate, layers), whole, count, strength)
            shutil.copy(whole, update)
            become_update(update, base)
            found, wanted = load(update, base=base), load(whole)
            assert all(torch.equal(found[key], wanted[key]) for key in wanted)
            old, new = base.read_bytes(), whole.read_bytes()
            patched = difference("bsdiff4", lambda m, o=old, n=new: len(m.diff(o, n)))
            squeezed = difference(
                "zstandard",
                lambda m, o=old, n=new: len(
                    m.ZstdCompressor(19, dict_data=m.ZstdCompressionDict(o)).compress(n)
                ),
            )
            changed = sum(
                not torch.equal(tensor, wanted[key]) for key, tensor in load(base).items()
            )
            sizes = [f"{len(new):,}", f"{update.stat().st_size:,}", patched, squeezed]
            rows.append([case, f"{changed} of {len(wanted)}", *sizes, f"{accuracy(whole):.2%}"])
            print(rows[-1], flush=True)
    head = ["trained", "tensors changed", "whole file", "update", "bsdiff", "zstd -19", "accuracy"]
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
