"""The committed files are what the results beside them say; the picture says what it shows."""

from __future__ import annotations

import json
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule

from hemp_lightning import load_into, save
from hemp_lightning.suite.classifier import accuracy
from hemp_lightning.suite.datasets import MNIST, ImageFolder
from hemp_lightning.suite.models import build
from hemp_lightning.suite.results import draw_weights
from hemp_reader.reading import verify

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


def test_the_picture_of_the_weights_says_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    before = {f"layer{i}.weight": torch.randn(4 + i, 10) for i in range(8)}
    before |= {"layer0.bias": torch.randn(4)}
    after = {name: weights.sign() for name, weights in before.items()}
    draw_weights(before, after, tmp_path / "weights.png")
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert "6 largest of 8" in figure.get_suptitle()
    assert len(figure.axes) == 12 and all(axes.get_ylabel() for axes in figure.axes)
    left, right = figure.axes[:2]
    assert left.get_title() == "layer7.weight (11 x 10)"
    assert len(left.lines) == 2  # the levels -1 and 1
    counts = [int((after["layer7.weight"] == level).sum()) for level in (-1, 1)]
    assert [bar.get_height() for bar in right.patches] == counts
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [words.split(":")[0] for words in legend] == ["before", "after"]


@pytest.mark.parametrize("num_levels", [2, 8, 9, 15, 64])
def test_labels_of_levels_keep_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_levels: int
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    indices = torch.arange(num_levels).repeat(9).reshape(9, -1)
    weights = {"weight": -0.123456 * (indices - num_levels // 2).float()}
    draw_weights(weights, weights, tmp_path / "weights.png")
    labels = drawn[0].axes[1].get_xticklabels()
    assert "0" in [label.get_text().lstrip("-") for label in labels]
    boxes = [label.get_window_extent() for label in labels]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_the_picture_shows_the_levels_of_cosine_coefficients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    torch.manual_seed(0)
    network = torch.nn.Conv2d(4, 8, 5, bias=False)
    with pytest.warns(UserWarning, match="far from the weights"):
        summary = save(network, tmp_path / "a.hemp", num_levels=5, transform="dct")
    decoded = load_into(torch.nn.Conv2d(4, 8, 5, bias=False), tmp_path / "a.hemp")
    draw_weights(network.state_dict(), decoded.state_dict(), tmp_path / "weights.png", ["weight"])
    left, right = drawn[0].axes
    assert "cosine coefficients" in left.get_title()
    (tensor,) = summary.tensors
    assert right.get_title().startswith(f"{tensor.num_levels} levels")
    assert len(left.lines) == len(right.patches) == tensor.num_levels <= 5
    assert sum(bar.get_height() for bar in right.patches) == network.weight.numel()
