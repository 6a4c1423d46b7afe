"""Folders of images: classes, cache, and what it says about sets it cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hemp_lightning.suite.datasets import ImageFolder, ImageNet


def make_set(root: Path, size: int = 8, test: str = "test", mode: str = "RGB") -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 6), (test, 2)):
        for label in ("cat", "dog"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                shape = (size, size, 3) if mode == "RGB" else (size, size)
                pixels = random.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("test", ["test", "val"])
def test_reads_pixels_and_labels(tmp_path: Path, test: str) -> None:
    make_set(tmp_path, test=test)
    module = ImageFolder(root=str(tmp_path), val_fraction=0.25)
    module.setup()
    assert module.train is not None and module.val is not None and module.test is not None
    assert [len(module.train), len(module.val), len(module.test)] == [9, 3, 4]
    assert (module.num_classes, module.in_channels, module.image_size) == (2, 3, 8)
    assert module.test.labels.tolist() == [0, 0, 1, 1]
    expected = np.asarray(Image.open(tmp_path / test / "dog" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(module.test.images[3].numpy(), expected)


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    module = ImageFolder(root=str(make_set(tmp_path, mode="L")), val_fraction=0.25)
    module.setup()
    assert module.in_channels == 1


def test_cache_gives_the_same_and_notices_a_change(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    cache = tmp_path / "cache"

    def images() -> torch.Tensor:
        module = ImageFolder(root=str(root), cache=str(cache), val_fraction=0.25)
        module.setup()
        assert module.test is not None
        return module.test.images

    first = images()
    files = list(cache.iterdir())
    assert len(files) == 1
    assert torch.equal(images(), first)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "test" / "cat" / "0.png")
    assert images()[0, :, 0, 0].tolist() == [1, 2, 3]
    assert len(list(cache.iterdir())) == 2


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train/ .*found none. Type dataset.root=FOLDER"):
        ImageFolder(root=str(tmp_path / "no")).setup()
    with pytest.raises(ValueError, match=r"`dataset.root`"):
        ImageFolder().setup()


def test_classes_that_differ(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "fox")
    with pytest.raises(ValueError, match="dog, fox"):
        ImageFolder(root=str(tmp_path)).setup()


def test_images_of_several_sizes(tmp_path: Path) -> None:
    make_set(tmp_path)
    Image.new("RGB", (9, 8)).save(tmp_path / "train" / "dog" / "3.png")
    with pytest.raises(ValueError, match="one size, 8x8; found 9x8"):
        ImageFolder(root=str(tmp_path)).setup()


def test_large_images_are_sent_to_imagenet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset=imagenet"):
        ImageFolder(root=str(make_set(tmp_path, size=300))).setup()


def test_imagenet_layout(tmp_path: Path) -> None:
    module = ImageNet(
        root=str(make_set(tmp_path, size=40, test="val")),
        batch_size=2,
        workers=0,
        pin_memory=False,
        val_fraction=0.25,
        image_size=32,
    )
    module.setup()
    sizes = [len(module.parts[part]) for part in ("train", "val", "test")]
    assert sizes == [9, 3, 4] and module.num_classes == 2
    assert not set(module.parts["train"].indices) & set(module.parts["val"].indices)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (2, 3, 32, 32) and labels.shape == (2,)
    torch.manual_seed(1)  # the validation part is not augmented: twice the same
    assert torch.equal(module.parts["val"][0][0], module.parts["val"][0][0])
