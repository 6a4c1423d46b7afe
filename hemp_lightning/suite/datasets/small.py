"""digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from hemp_lightning.suite.datasets.memory import Arrays, InMemory
from hemp_lightning.suite.datasets.split import split_indices


class Digits(InMemory):
    """The 1,797 handwritten digits that ship with scikit-learn: nothing to download.

    8x8 pixels, resized to `image_size` (28 in the suite, so that LeNet-5 fits). The set has no
    official split: a quarter, cut with seed 0, is the test split.
    """

    def read(self) -> Arrays:
        """Read the set from scikit-learn."""
        from sklearn.datasets import load_digits

        data = load_digits()
        images = np.round(data.images * (255.0 / 16.0)).astype(np.uint8)  # (1797, 8, 8)
        train, test = split_indices(len(images), 0.25, seed=0)
        pixels = torch.from_numpy(images).unsqueeze(1)
        labels = torch.from_numpy(data.target).long()
        return Arrays(pixels[train], labels[train], pixels[test], labels[test])


class _Torchvision(InMemory):
    source: Callable[..., Any]  # the class of torchvision.datasets
    folder: str  # what it looks for below root

    def prepare_data(self) -> None:
        """Download where that is wanted."""
        if self.download:
            self._parts()

    def read(self) -> Arrays:
        """Read both splits from torchvision's files."""
        train, test = self._parts()
        return Arrays(
            _pixels(train.data), _labels(train.targets), _pixels(test.data), _labels(test.targets)
        )

    def _parts(self) -> list[Any]:
        name = type(self).__name__
        if self.root is None:
            raise ValueError(f"`dataset.root`: expected the folder that holds {name}; found none")
        try:
            return [
                self.source(root=self.root, train=train, download=self.download)
                for train in (True, False)
            ]
        except RuntimeError as error:
            if self.download:
                raise
            looked = Path(self.root).resolve() / self.folder
            raise FileNotFoundError(
                f"`dataset.root`: expected {name} in {looked}; found no complete copy. Give "
                f"dataset.root=FOLDER, or type dataset.download=true to fetch it there"
            ) from error


class MNIST(_Torchvision):
    """MNIST: 60,000 + 10,000 digits of 28x28 pixels."""

    source = torchvision.datasets.MNIST
    folder = "MNIST/raw"
    mean, std = (0.1307,), (0.3081,)


class FashionMNIST(_Torchvision):
    """Fashion-MNIST: 60,000 + 10,000 pieces of clothing of 28x28 pixels."""

    source = torchvision.datasets.FashionMNIST
    folder = "FashionMNIST/raw"
    mean, std = (0.2860,), (0.3530,)


class CIFAR10(_Torchvision):
    """CIFAR-10: 50,000 + 10,000 colour images of 32x32 pixels."""

    source = torchvision.datasets.CIFAR10
    folder = "cifar-10-batches-py"
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class CIFAR100(_Torchvision):
    """CIFAR-100: 50,000 + 10,000 colour images of 32x32 pixels."""

    source = torchvision.datasets.CIFAR100
    folder = "cifar-100-python"
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def _pixels(images: Tensor | np.ndarray) -> Tensor:
    pixels = torch.as_tensor(images)  # (N, H, W) or (N, H, W, channels), uint8
    return pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _labels(labels: Tensor | list[int]) -> Tensor:
    return torch.as_tensor(labels, dtype=torch.int64)
