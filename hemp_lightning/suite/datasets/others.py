"""Sets that the suite has no class for: torchvision's by name, and pairs of torch Datasets."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from lightning import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from hemp_lightning.suite.datasets.memory import Arrays, InMemory
from hemp_lightning.suite.datasets.split import split_indices


class Torchvision(InMemory):
    """A set of `torchvision.datasets` by name, read into memory once.

    Args:
        name: A class there whose samples are an image and a class, with a training and a test
            split: `FashionMNIST`, `SVHN`, `STL10`, `GTSRB`.
        **options: As for `InMemory`. Images of several sizes need `image_size`.

    Raises:
        ValueError: There is no such class, or it has no two splits.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        found = vars(torchvision.datasets).get(name)
        if not isinstance(found, type):
            raise ValueError(
                f"`dataset.name`: expected a class of torchvision.datasets, such as FashionMNIST "
                f"or SVHN; found {name!r}"
            )
        taken = inspect.signature(found).parameters
        if "train" not in taken and "split" not in taken:
            raise ValueError(
                f"`dataset.name`: expected a set with a training and a test split; {name} has no "
                "such argument. Write a LightningDataModule and type dataset._target_=mydata.Mine"
            )
        self.name = name
        self._source = found
        self._taken = taken

    def read(self) -> Arrays:
        """Read both splits, sample by sample."""
        (train_images, train_labels), (test_images, test_labels) = (
            self._arrays(self._open(split)) for split in ("train", "test")
        )
        return Arrays(train_images, train_labels, test_images, test_labels)

    def _open(self, split: str) -> Dataset[Any]:
        words: dict[str, Any] = {"root": self.root}
        words |= {"train": split == "train"} if "train" in self._taken else {"split": split}
        if "download" in self._taken:
            words["download"] = self.download
        try:
            return self._source(**words)
        except (RuntimeError, OSError) as error:
            if self.download:
                raise
            raise FileNotFoundError(
                f"`dataset.root`: expected {self.name} in {Path(str(self.root)).resolve()}; found "
                "no complete copy. Give dataset.root=FOLDER, or type dataset.download=true to "
                "fetch it there"
            ) from error

    def _arrays(self, samples: Any) -> tuple[Tensor, Tensor]:
        images: list[Tensor] = []
        labels: list[int] = []
        for number in range(len(samples)):
            image, label = samples[number]
            pixels = torch.from_numpy(np.array(image))
            image = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
            if self.image_size is not None and image.shape[1:] != (self.image_size,) * 2:
                size = (self.image_size, self.image_size)
                resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
                image = resized[0].round().clamp(0, 255).to(torch.uint8)
            if (images and image.shape != images[0].shape) or image.shape[1] != image.shape[2]:
                raise ValueError(
                    f"`dataset.image_size`: expected a size, since {self.name} has images that are "
                    f"not all square and alike; found {image.shape[2]}x{image.shape[1]}. Type "
                    "dataset.image_size=N"
                )
            images.append(image)
            labels.append(int(label))
        return torch.stack(images), torch.tensor(labels)


class Pair(LightningDataModule):
    """Two torch Datasets, for training and for testing.

    Args:
        train: Samples of an input and a label; needs a length.
        test: The same; read once, at the end.
        val: For validation; None to cut off a seeded part of `train`.
        num_classes: Number of classes; None where the task needs none, or `train` says it.
        batch_size: Samples in a batch.
        workers: Processes that prepare batches.
        pin_memory: Put batches in page-locked memory, for a GPU.
        val_fraction: Share of `train` that is cut off.
        split_seed: Seed of that cut.

    Raises:
        ValueError: A part has no samples by number.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.zeros(10, 1, 8, 8), torch.arange(10))
        >>> pair = Pair(data, data, num_classes=10, val_fraction=0.2)
        >>> len(pair.parts["train"]), len(pair.parts["val"])
        (8, 2)
    """

    def __init__(
        self,
        train: Dataset[Any],
        test: Dataset[Any],
        val: Dataset[Any] | None = None,
        num_classes: int | None = None,
        batch_size: int = 128,
        workers: int = 0,
        pin_memory: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        for key, value in (("train", train), ("test", test)):
            if not isinstance(value, Dataset) or "__len__" not in dir(value):
                raise ValueError(
                    f"`dataset.{key}`: expected a torch Dataset with a length; found "
                    f"{type(value).__name__}. Type dataset.{key}._target_=mydata.Mine"
                )
        self.num_classes = num_classes
        if num_classes is None and "num_classes" in dir(train):
            self.num_classes = train.num_classes  # type: ignore[attr-defined]
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.name = type(train).__name__
        if val is None:
            count = len(train)  # type: ignore[arg-type]
            first, second = split_indices(count, val_fraction, split_seed)
            train, val = Subset(train, first.tolist()), Subset(train, second.tolist())
        self.parts = {"train": train, "val": val, "test": test}

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, shuffled; the last short one is dropped."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation part."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test part."""
        return self._loader("test")

    def _loader(self, part: str) -> DataLoader[Any]:
        data: Any = self.parts[part]
        return DataLoader(
            data,
            batch_size=self.batch_size,
            shuffle=part == "train",
            drop_last=part == "train" and len(data) >= self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.pin_memory,
        )
