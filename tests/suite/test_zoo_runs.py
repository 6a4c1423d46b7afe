"""Each network of the suite on images of its size, and the ImageNet recipes on generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemp_lightning.suite.models import MODELS
from tests.suite.test_configs import GROUPS
from tests.suite.test_run import in_process

pytestmark = pytest.mark.slow

RECIPES = [name for name in GROUPS["experiment"] if name.endswith("imagenet")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of noise in each of three classes, for training and for testing."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in "abc":
            (folder / split / label).mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_runs(tmp_path: Path, images: Path, model: str) -> None:
    if model.startswith("lenet"):
        words = ["dataset=digits"]
    else:
        words = ["dataset=imagefolder", f"dataset.root={images}", "dataset.image_size=32"]
    words += ["dataset.val_fraction=0.3", "coder=raw"]  # how it is coded is tested elsewhere
    found = in_process(tmp_path / "a", f"model={model}", *words)
    assert found["model"] == model
    assert 0 < found["file_bytes"] < found["float_bytes"] / 4
    assert {entry["levels"] for entry in found["tensors"]} <= {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_imagenet_run_on_generated_images(
    tmp_path: Path, images: Path, recipe: str
) -> None:
    words = [f"experiment={recipe}", f"dataset.root={images}", "model.pretrained=false"]
    words += ["dataset.workers=0", "dataset.val_fraction=0.3", "dataset.batch_size=4"]
    words += ["dataset.image_size=64", "epochs=1", "recalibrate_batches=1", "coder=raw"]
    found = in_process(tmp_path / "a", *words)
    assert recipe.startswith(found["model"])
    assert found["dataset"] == "imagenet" and found["num_levels"] == 16
