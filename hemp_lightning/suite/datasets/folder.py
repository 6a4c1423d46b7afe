"""Folders of images: train/<class>/*.jpg and test/<class>/*.jpg (or val/)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from hemp_lightning.suite.datasets.memory import Arrays, InMemory
from hemp_lightning.suite.datasets.split import split_indices

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def find_split(root: str | None, names: tuple[str, ...]) -> Path:
    """Find the folder of a split below `root`; the first of `names` that exists.

    Args:
        root: The dataset's folder.
        names: Folder names that will do, the preferred one first.

    Raises:
        ValueError: `root` is not given.
        FileNotFoundError: None of them is there; the message says where it looked.
    """
    if root is None:
        raise ValueError(
            "`dataset.root`: expected a folder that holds train/<class>/ and test/<class>/; "
            "found none. Type dataset.root=FOLDER"
        )
    for name in names:
        if (Path(root) / name).is_dir():
            return Path(root) / name
    raise FileNotFoundError(
        f"`dataset.root`: expected a folder {'/ or '.join(names)}/ with one folder per class in "
        f"{Path(root).resolve()}; found none. Type dataset.root=FOLDER"
    )


class ImageFolder(InMemory):
    """Small images, all of one size, one folder a class, decoded once into memory.

    The mean and standard deviation of the channels are measured on the training part unless given.

    Args:
        cache: Folder for the decoded images, so that the next run need not decode; None for none.
            The file is named after a hash of the names, sizes and times of the images.
        mean: Mean of each channel on the scale 0 to 1; None to measure.
        std: Standard deviation of each channel; None to measure.
        name: Name of the set in results; None for that of the folder.
        **options: As for `InMemory`.
    """

    def __init__(
        self,
        cache: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.cache = cache
        folder = None if self.root is None else Path(self.root).resolve().name
        self.name = name or folder or "imagefolder"
        if (mean is None) != (std is None):
            raise ValueError("`dataset.mean` and `dataset.std`: expected both or neither")
        if mean is not None and std is not None:
            self.mean, self.std = tuple(mean), tuple(std)

    def read(self) -> Arrays:
        """Decode both splits, or take them from the cache."""
        train = find_split(self.root, ("train",))
        test = find_split(self.root, ("test", "val"))
        parts = [datasets.ImageFolder(str(folder)) for folder in (train, test)]
        if parts[0].classes != parts[1].classes:
            raise ValueError(
                f"`dataset.root`: expected the same classes in {train} and {test}; found "
                f"{len(parts[0].classes)} and {len(parts[1].classes)}, different: "
                f"{', '.join(sorted(set(parts[0].classes) ^ set(parts[1].classes))[:3])}"
            )
        samples = [part.samples for part in parts]
        if self.cache is None:
            images = [_decode(part) for part in samples]
        else:
            images = self._through_cache(samples, Path(self.cache))
        labels = [torch.tensor([label for _, label in part]) for part in samples]
        return Arrays(images[0], labels[0], images[1], labels[1])

    def _through_cache(self, samples: list[list[tuple[str, int]]], cache: Path) -> list[Tensor]:
        file = cache / f"images-{_fingerprint(samples)}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as stored:
                return [torch.from_numpy(stored[name]) for name in ("train", "test")]
        images = [_decode(part) for part in samples]
        cache.mkdir(parents=True, exist_ok=True)
        # a name of its own: other jobs of a sweep may be decoding the same images
        handle, partial = tempfile.mkstemp(suffix=".npz", prefix="partial-", dir=cache)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, train=images[0].numpy(), test=images[1].numpy())
            os.replace(partial, file)
        except BaseException:
            os.unlink(partial)
            raise
        return images


class ImageNet(LightningDataModule):
    """ImageNet-1k, or any folder of large images, decoded as training goes.

    train/<class>/ and val/<class>/ as the ImageNet scripts lay it out; val/ is the test split and
    a seeded part of train/ the validation split. Augmentation: random resized crop and flip; the
    test crop is the centre of the image resized by 256/224.

    Args:
        root: Folder that holds train/ and val/.
        batch_size: Images in a batch.
        workers: Processes that decode.
        pin_memory: Put batches in page-locked memory, for a GPU.
        val_fraction: Share of train/ that is cut off for validation.
        split_seed: Seed of that cut.
        image_size: Height and width of the crops in pixels.
    """

    in_channels = 3

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 256,
        workers: int = 8,
        pin_memory: bool = True,
        val_fraction: float = 0.01,
        split_seed: int = 0,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        self.root = root
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.image_size = image_size
        self.num_classes = 0  # known after setup
        self.parts: dict[str, Any] = {}

    def setup(self, stage: str | None = None) -> None:
        """List the files and cut off the validation part; once."""
        if self.parts:
            return
        normalize = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        crop = transforms.RandomResizedCrop(self.image_size)
        augmented = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *normalize])
        side = round(self.image_size * 256 / 224)
        centre = [transforms.Resize(side), transforms.CenterCrop(self.image_size)]
        plain = transforms.Compose([*centre, *normalize])
        folder = find_split(self.root, ("train",))
        train = datasets.ImageFolder(str(folder), augmented)
        indices = split_indices(len(train), self.val_fraction, self.split_seed)
        self.parts = {
            "train": Subset(train, indices[0].tolist()),
            "val": Subset(datasets.ImageFolder(str(folder), plain), indices[1].tolist()),
            "test": datasets.ImageFolder(str(find_split(self.root, ("val", "test"))), plain),
        }
        self.num_classes = len(train.classes)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, shuffled and augmented."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation part."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split."""
        return self._loader("test")

    def _loader(self, part: str) -> DataLoader[Any]:
        return DataLoader(
            self.parts[part],
            batch_size=self.batch_size,
            shuffle=part == "train",
            drop_last=part == "train" and len(self.parts[part]) >= self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.pin_memory,
        )


def _decode(samples: list[tuple[str, int]]) -> Tensor:
    """Decode images, all of the size and mode of the first, to uint8 `(N, channels, s, s)`."""
    with Image.open(samples[0][0]) as first:
        mode = "L" if first.mode in ("1", "L") else "RGB"
        width, height = first.size
    if width != height or width > 256:
        raise ValueError(
            f"`dataset`: imagefolder holds square images of up to 256 pixels in memory; found "
            f"{width}x{height} in {samples[0][0]}. Use dataset=imagenet for large images"
        )
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = np.empty((len(samples), *shape), np.uint8)
    for number, (path, _) in enumerate(samples):
        with Image.open(path) as image:
            if image.size != (width, height):
                raise ValueError(
                    f"`dataset`: imagefolder expects images of one size, {width}x{height}; found "
                    f"{image.width}x{image.height} in {path}. Use dataset=imagenet, which resizes"
                )
            pixels[number] = np.asarray(image.convert(mode))
    tensor = torch.from_numpy(pixels)
    return tensor.unsqueeze(1) if mode == "L" else tensor.permute(0, 3, 1, 2).contiguous()


def _fingerprint(samples: list[list[tuple[str, int]]]) -> str:
    digest = hashlib.sha256()
    for part in samples:
        for path, label in part:
            stat = Path(path).stat()
            digest.update(f"{path}|{label}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
