"""Image sets small enough to be held in memory as uint8 and served in whole batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from hemp_lightning.suite.datasets.augment import random_flip, random_shift
from hemp_lightning.suite.datasets.split import split_indices

Batch = tuple[Tensor, Tensor]


class Arrays(NamedTuple):
    """What a set consists of: uint8 images `(N, channels, size, size)`, int64 labels `(N,)`."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class TensorBatches(Dataset):
    """A dataset that gives out whole batches, normalised and augmented at once.

    A `DataLoader` fetches a batch through `__getitems__`, so that samplers, workers and pinned
    memory work as ever.

    Args:
        images: uint8 `(N, channels, size, size)`.
        labels: int64 `(N,)`.
        mean: Mean of each channel on the scale 0 to 1, float `(channels,)`.
        std: Standard deviation of each channel, float `(channels,)`.
        shift: Largest random shift in pixels; 0 for none.
        flip: Mirror half of the images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Tensor,
        std: Tensor,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        self.images = images
        self.labels = labels
        self.mean = 255.0 * mean.view(1, -1, 1, 1)
        self.scale = 1.0 / (255.0 * std.view(1, -1, 1, 1))
        self.shift = shift
        self.flip = flip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        picked = torch.tensor(indices)
        images, labels = self.images[picked], self.labels[picked]
        if self.shift:
            images = random_shift(images, self.shift)
        if self.flip:
            images = random_flip(images)
        return (images.float() - self.mean) * self.scale, labels


class InMemory(LightningDataModule, ABC):
    """A DataModule over a set in memory; subclasses only say how to get the arrays.

    Args:
        root: Folder that holds the data; None for sets that need none.
        download: Fetch the data when it is missing.
        batch_size: Images in a batch.
        workers: Processes that prepare batches; 0 is best for sets in memory.
        pin_memory: Put batches in page-locked memory, for a GPU.
        val_fraction: Share of the training set that is cut off for validation.
        split_seed: Seed of that cut.
        image_size: Resize the images to this height and width; None keeps them.
        shift: Largest random shift of training images in pixels.
        flip: Mirror half of the training images.
    """

    mean: tuple[float, ...] | None = None  # of each channel, scale 0 to 1; None: measured
    std: tuple[float, ...] | None = None

    def __init__(
        self,
        root: str | None = None,
        download: bool = False,
        batch_size: int = 128,
        workers: int = 0,
        pin_memory: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        image_size: int | None = None,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`dataset.batch_size`: expected 1 or more; found {batch_size}")
        self.root = root
        self.download = download
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.image_size = image_size
        self.shift = shift
        self.flip = flip
        self.num_classes = 0  # these three are known after setup
        self.in_channels = 0
        self.train: TensorBatches | None = None
        self.val: TensorBatches | None = None
        self.test: TensorBatches | None = None

    @abstractmethod
    def read(self) -> Arrays:
        """Read the training and the test set."""

    def setup(self, stage: str | None = None) -> None:
        """Read the set, cut off the validation part, measure what is needed; once."""
        if self.train is not None:
            return
        arrays = self.read()
        train_images, test_images = (
            _resize(images, self.image_size) for images in (arrays.train_images, arrays.test_images)
        )
        train, val = split_indices(len(arrays.train_labels), self.val_fraction, self.split_seed)
        pixels = train_images[train].float().div(255.0) if self.mean is None else None
        mean = torch.tensor(self.mean) if pixels is None else pixels.mean((0, 2, 3))
        std = torch.tensor(self.std) if pixels is None else pixels.std((0, 2, 3))
        self.num_classes = int(arrays.train_labels.max()) + 1
        self.in_channels, self.image_size = train_images.shape[1], train_images.shape[2]
        labels = arrays.train_labels
        self.train = TensorBatches(
            train_images[train], labels[train], mean, std, self.shift, self.flip
        )
        self.val = TensorBatches(train_images[val], labels[val], mean, std)
        self.test = TensorBatches(test_images, arrays.test_labels, mean, std)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training part, shuffled, augmented; the last short one is dropped."""
        return self._loader(self.train, training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation part."""
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split."""
        return self._loader(self.test)

    def _loader(self, data: TensorBatches | None, training: bool = False) -> DataLoader[Batch]:
        if data is None:
            raise RuntimeError(f"{type(self).__name__}: call setup() before asking for batches")
        return DataLoader(
            data,
            # evaluation needs no gradients: larger batches, same result
            batch_size=self.batch_size if training else max(self.batch_size, 500),
            shuffle=training,
            drop_last=training and len(data) >= self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.pin_memory,
            collate_fn=_as_is,  # the batch is already one
        )


def _as_is(batch: Any) -> Any:
    return batch


def _resize(images: Tensor, size: int | None, chunk: int = 4096) -> Tensor:
    if size is None or images.shape[-1] == size:
        return images
    if size < 1:
        raise ValueError(f"`dataset.image_size`: expected 1 or more; found {size}")
    parts = []
    for start in range(0, len(images), chunk):  # in float, a piece at a time, to save memory
        part = images[start : start + chunk].float()
        part = F.interpolate(part, (size, size), mode="bilinear", antialias=True)
        parts.append(part.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)
