"""Sets in memory: splits, seeds, augmentation, normalisation, and what a missing set says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hemp_lightning.suite.datasets import CIFAR10, MNIST, Arrays, Digits, InMemory, TensorBatches
from hemp_lightning.suite.datasets.augment import random_flip, random_shift
from hemp_lightning.suite.datasets.split import split_indices

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


class Numbered(InMemory):
    """40 training and 10 test images; pixel value and label tell which one it is."""

    def read(self) -> Arrays:
        train = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 4, 4)
        test = torch.full((10, 3, 4, 4), 99, dtype=torch.uint8)
        return Arrays(train.contiguous(), torch.arange(40) % 4, test, torch.arange(10) % 4)


def ids(part: TensorBatches | None) -> set[int]:
    assert part is not None
    return {int(image[0, 0, 0]) for image in part.images}


def test_split_is_disjoint_complete_and_seeded() -> None:
    first, second, other = Numbered(), Numbered(), Numbered(split_seed=1)
    for module in (first, second, other):
        module.setup()
    assert ids(first.train) | ids(first.val) == set(range(40))
    assert not ids(first.train) & ids(first.val)
    assert len(ids(first.val)) == 4
    assert ids(first.val) == ids(second.val) != ids(other.val)
    assert ids(first.test) == {99}


def test_split_does_not_move_the_global_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    split_indices(100, 0.5, 7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 0.001])
def test_split_fraction_that_leaves_nothing(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"`dataset.val_fraction`"):
        split_indices(40, fraction, 0)


def test_shift_is_a_crop_of_the_padded_image() -> None:
    torch.manual_seed(0)
    images = torch.randint(1, 256, (64, 3, 6, 5), dtype=torch.uint8)
    shifted = random_shift(images, 2)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for before, after in zip(padded, shifted.numpy(), strict=True):
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(before[:, y : y + 6, x : x + 5], after)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 15  # of 25: each image has a shift of its own


def test_flip_mirrors_about_half() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (400, 1, 3, 4), dtype=torch.uint8)
    flipped = random_flip(images)
    mirrored = sum(
        np.array_equal(a[:, :, ::-1], b)
        for a, b in zip(images.numpy(), flipped.numpy(), strict=True)
    )
    same = sum(np.array_equal(a, b) for a, b in zip(images.numpy(), flipped.numpy(), strict=True))
    assert mirrored + same == 400
    assert 150 < mirrored < 250


def test_batches_are_normalised_with_the_training_statistics() -> None:
    module = Numbered(batch_size=36)
    module.setup()
    images, labels = next(iter(module.train_dataloader()))
    assert images.shape == (36, 3, 4, 4) and images.dtype == torch.float32
    assert labels.shape == (36,) and labels.dtype == torch.int64
    assert images.mean().abs() < 1e-5
    assert abs(float(images.std()) - 1.0) < 1e-3
    values = np.array(sorted(ids(module.train)), dtype=np.float64)
    spread = np.repeat(values, 16).std(ddof=1)
    test_images, _ = next(iter(module.test_dataloader()))
    assert float(test_images[0, 0, 0, 0]) == pytest.approx((99 - values.mean()) / spread, rel=1e-4)


def test_only_training_batches_are_augmented() -> None:
    module = Numbered(shift=1, flip=True)
    module.setup()
    assert module.train is not None and module.val is not None and module.test is not None
    assert (module.train.shift, module.train.flip) == (1, True)
    assert (
        (module.val.shift, module.val.flip) == (module.test.shift, module.test.flip) == (0, False)
    )


def test_same_seed_same_batches_with_and_without_workers() -> None:
    def epoch(workers: int) -> list[torch.Tensor]:
        torch.manual_seed(5)
        module = Numbered(batch_size=8, workers=workers)
        module.setup()
        return [labels for _, labels in module.train_dataloader()]

    for first, second, worked in zip(epoch(0), epoch(0), epoch(1), strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, worked)


def test_single_item_equals_its_batch() -> None:
    module = Numbered()
    module.setup()
    assert module.test is not None
    image, label = module.test[3]
    images, labels = module.test.__getitems__([3, 4])
    assert torch.equal(image, images[0]) and int(label) == int(labels[0]) == 3


def test_batches_before_setup() -> None:
    with pytest.raises(RuntimeError, match="call setup"):
        Numbered().train_dataloader()


def test_digits_split_and_size() -> None:
    digits = Digits(image_size=28)
    digits.setup()
    assert digits.train is not None and digits.val is not None and digits.test is not None
    assert [len(digits.train), len(digits.val), len(digits.test)] == [1213, 135, 449]
    assert (digits.num_classes, digits.in_channels, digits.image_size) == (10, 1, 28)
    together = torch.cat([part.images for part in (digits.train, digits.val, digits.test)])
    from sklearn.datasets import load_digits

    # Resizing keeps the mean brightness of the set: nothing was lost or doubled.
    expected = float(load_digits().images.mean()) * 255 / 16
    assert float(together.float().mean()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", [MNIST, CIFAR10])
def test_missing_set_says_where_and_what_to_type(tmp_path: Path, kind: type[InMemory]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        kind(root=str(tmp_path)).setup()
    message = str(caught.value)
    assert str(tmp_path) in message and "dataset.download=true" in message
    assert "\n" not in message


def test_mnist_as_published() -> None:
    if not (SHARED / "MNIST" / "raw").is_dir():
        pytest.skip(f"needs {SHARED / 'MNIST'}")
    mnist = MNIST(root=str(SHARED), val_fraction=1 / 12)
    mnist.setup()
    assert mnist.train is not None and mnist.val is not None and mnist.test is not None
    assert [len(mnist.train), len(mnist.val), len(mnist.test)] == [55_000, 5_000, 10_000]
    # Counts of the test digits, as on the set's page.
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(mnist.test.labels).tolist() == counts
    pixels = mnist.train.images.float() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=0.002)
