"""The files under benchmarks/results are what the results beside them say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hemp_lightning import load_into
from hemp_lightning.classifier import accuracy
from hemp_lightning.container import verify
from hemp_lightning.datasets import MNIST
from hemp_lightning.models import build

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
FILES = sorted((ROOT / "benchmarks" / "results").glob("*/model.hemp"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_the_file_is_that_of_the_median_seed(path):
    verify(path)
    seeds = [json.loads(p.read_text()) for p in sorted(path.parent.glob("results_seed*.json"))]
    median = sorted(seeds, key=lambda results: results["file_bytes"])[len(seeds) // 2]
    assert path.stat().st_size == median["file_bytes"]
    if median["dataset"] != "mnist":
        pytest.skip(f"{median['dataset']} is not read here")
    if not (DATA / "MNIST").is_dir():
        pytest.skip(f"needs MNIST in {DATA}")
    network = load_into(build(median["model"]), path)
    data = MNIST(root=str(DATA))
    data.setup("test")
    assert accuracy(network, data.test_dataloader()) == pytest.approx(median["accuracy"], abs=2e-4)
