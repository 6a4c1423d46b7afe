"""The files under benchmarks/results are what the results beside them say."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from lightning.pytorch import LightningDataModule

from hemp_lightning import load_into
from hemp_lightning.file.load import verify
from hemp_lightning.suite.classifier import accuracy
from hemp_lightning.suite.datasets import MNIST, ImageFolder
from hemp_lightning.suite.models import build

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
FILES = sorted((ROOT / "benchmarks" / "results").glob("*/model.hemp"))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LightningDataModule]:
    """Datasets by name in the results, as far as they are at hand; only test splits are read."""
    found: dict[str, LightningDataModule] = {}
    if (DATA / "MNIST").is_dir():
        found["mnist"] = MNIST(root=str(DATA))
    archive = DATA / "cifar10-jpeg.tar.xz"
    if archive.is_file():
        root = tmp_path_factory.mktemp("cifar10")
        with tarfile.open(archive) as tar:
            test = [entry for entry in tar.getmembers() if entry.name.startswith("test/")]
            tar.extractall(root, test, filter="data")
        (root / "train").symlink_to(root / "test")  # `ImageFolder` wants one
        # the statistics of conf/dataset/imagefolder.yaml, with which the networks were trained
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        found["imagefolder"] = ImageFolder(root=str(root), mean=mean, std=std)
    for data in found.values():
        data.setup("test")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_the_file_is_that_of_the_median_seed(
    path: Path, splits: dict[str, LightningDataModule]
) -> None:
    verify(path)
    seeds = [json.loads(p.read_text()) for p in sorted(path.parent.glob("results_seed*.json"))]
    median = sorted(seeds, key=lambda results: results["file_bytes"])[len(seeds) // 2]
    assert path.stat().st_size == median["file_bytes"]
    if median["dataset"] not in splits:
        pytest.skip(f"needs the data of {median['dataset']} in {DATA}")
    network = load_into(build(median["model"]), path)
    found = accuracy(network, splits[median["dataset"]].test_dataloader())
    assert found == pytest.approx(median["accuracy"], abs=2e-4)
