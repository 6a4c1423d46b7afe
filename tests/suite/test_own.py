"""A user's own model, data, task, quantizer, coder and methods, by a word on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hemp_lightning import load, load_into
from hemp_lightning.suite.error_reporting import USER_ERRORS, one_line
from tests.suite.test_run import ROOT, environment, in_process, results

MODULE = """
import torch
from lightning import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from hemp_lightning import UniformQuantizer, save
from hemp_lightning.coding.compressors import ZlibCoder

class SmallNet(nn.Sequential):
    def __init__(self, num_classes, in_channels, image_size, width=8):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, width), nn.ReLU(),
                         nn.Linear(width, num_classes))

def samples(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 12, 12, generator=generator)
    return TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())

class Leaves(LightningDataModule):
    def setup(self, stage=None):
        self.parts = {"train": samples(64), "val": samples(16), "test": samples(16)}
    def train_dataloader(self):
        return DataLoader(self.parts["train"], 16, shuffle=True)
    def val_dataloader(self):
        return DataLoader(self.parts["val"], 16)
    def test_dataloader(self):
        return DataLoader(self.parts["test"], 16)

class KnownLeaves(Leaves):
    num_classes, in_channels, image_size = 2, 3, 12

class Part(Dataset):
    def __init__(self, count=40):
        self.samples = samples(count)
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, number):
        image, label = self.samples[number]
        return image, int(label)

class Three(UniformQuantizer):
    def __init__(self):
        super().__init__(3, symmetric=True)

class Mine(ZlibCoder):
    name = "mine"

class Plain(Callback):
    def __init__(self, path, levels=4):
        self.path, self.levels, self.summary = path, levels, None
    def on_fit_end(self, trainer, pl_module):
        self.summary = save(pl_module.network, self.path, num_levels=self.levels)

class Halve(Callback):
    def __init__(self, start_epoch):
        self.start_epoch = start_epoch
    def on_train_batch_end(self, trainer, pl_module, *args):
        for weight in pl_module.network.parameters():
            weight.data[: len(weight) // 2] = 0
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module above, under a name that no other test has imported."""
    name = f"mine_{tmp_path.parent.name.replace('-', '_')}_{tmp_path.name}".replace("[", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_own_model_and_own_data(tmp_path: Path, mine: str) -> None:
    words = [f"model._target_={mine}.SmallNet", "model.width=16"]
    words += [f"dataset._target_={mine}.Leaves", "dataset.num_classes=2"]
    found = in_process(tmp_path / "a", *words)
    assert (found["model"], found["dataset"]) == ("SmallNet", "leaves")
    network = sys.modules[mine].SmallNet(2, 3, 12, width=16)
    load_into(network, tmp_path / "a" / "model.hemp")
    images, labels = sys.modules[mine].samples(16).tensors
    right = (network.eval()(images).argmax(1) == labels).float().mean().item()
    assert found["accuracy"] == pytest.approx(right)


def test_own_data_says_its_facts_and_a_name_may_be_given(tmp_path: Path, mine: str) -> None:
    words = [f"dataset._target_={mine}.KnownLeaves", "dataset.name=oaks", "model=lenet300"]
    assert in_process(tmp_path / "a", *words)["dataset"] == "oaks"


def test_a_pair_of_datasets(tmp_path: Path, mine: str) -> None:
    words = ["dataset=pair", f"dataset.train._target_={mine}.Part", "dataset.num_classes=2"]
    words += [f"dataset.test._target_={mine}.Part", "dataset.test.count=12", "model=lenet300"]
    found = in_process(tmp_path / "a", *words, "dataset.batch_size=8")
    assert found["dataset"] == "Part" and 0 <= found["accuracy"] * 8 % 1 < 1e-6  # a batch of 8


def test_own_quantizer_coder_and_pruning(tmp_path: Path, mine: str) -> None:
    words = [f"hemp.quantizer={{_target_:{mine}.Three}}", f"coder._target_={mine}.Mine"]
    words += [f"pruning._target_={mine}.Halve", "model=lenet300"]
    found = in_process(tmp_path / "a", *words)
    assert (found["num_levels"], found["coder"], found["pruning"]) == (3, "mine", "Halve")
    weights = load(tmp_path / "a" / "model.hemp")
    assert all(len(weights[f"fc{n}.weight"].unique()) <= 3 for n in (1, 2, 3))
    silent = (weights["fc1.weight"] == 0).all(1)  # wherever the file put these units
    assert int(silent.sum()) >= 150


def test_own_method(tmp_path: Path, mine: str) -> None:
    words = [f"quantization._target_={mine}.Plain", "quantization.levels=3", "model=lenet300"]
    found = in_process(tmp_path / "a", *words)
    assert found["method"] == "Plain"
    assert len(load(tmp_path / "a" / "model.hemp")["fc1.weight"].unique()) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset._target_=MINE.Leaves"], "`dataset.num_classes`: expected the number"),
        (["dataset._target_=MINE.Part"], "`dataset._target_`: expected a LightningDataModule"),
        (["model._target_=MINE.Leaves"], "`model._target_`: expected a torch.nn.Module"),
        (["model._target_=MINE.Nothing"], "`model._target_`: cannot import"),
        (["model._target_=MINE.SmallNet", "model.widht=3"], "`model.widht`"),
        (["model._target_=torch.nn.Linear", "model.bias=true"], "`model.in_features`"),
        (["task._target_=MINE.SmallNet", "task.image_size=8"], "`task._target_`: expected"),
        (["task._target_=lightning.LightningModule"], "`task._target_`: expected"),
        (["pruning._target_=MINE.SmallNet", "pruning.num_classes=2"], "`pruning."),
        (["coder._target_=MINE.SmallNet"], "`coder._target_`: expected a class with `name`"),
        (["model=torchvision", "model.name=nothing"], "`model.name`"),
        (["dataset=torchvision", "dataset.name=nothing"], "`dataset.name`"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    tmp_path: Path, mine: str, words: list[str], said: str
) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        in_process(tmp_path / "a", *(word.replace("MINE", mine) for word in words))
    assert one_line(caught.value).startswith(said)


LIBRARIES = {
    "torchvision": "model.name=shufflenet_v2_x0_5",
    "timm": "model.name=test_resnet",
    "transformers": "model.path=FOLDER",
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.slow
def test_networks_of_libraries(tmp_path: Path, mine: str, library: str) -> None:
    package = pytest.importorskip(library)
    if library == "transformers":
        config = package.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=12,
            patch_size=4,
        )
        config.save_pretrained(tmp_path / "vit")
    word = LIBRARIES[library].replace("FOLDER", str(tmp_path / "vit"))
    data = [f"dataset._target_={mine}.KnownLeaves"]
    if library == "timm":
        word = "model.name=resnet10t"
    found = in_process(tmp_path / "a", f"model={library}", word, *data)
    assert 0 < found["file_bytes"] < found["float_bytes"] / 4


@pytest.mark.slow
def test_the_language_model_runs_from_its_folder_to_its_end(tmp_path: Path) -> None:
    # not `trainer=debug`, whose limits other trainers do not have
    words = ["--config-dir", "conf", "experiment=characters", "callbacks=none", "logger=none"]
    words += ["trainer.limit_train_batches=2", "float_epochs=1", "epochs=1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words, f"hydra.run.dir={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=ROOT / "examples" / "characters",
        env=environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    assert (found["metric"], found["metric_mode"]) == ("bits_per_character", "min")
    assert (found["model"], found["dataset"]) == ("CausalConvolutions", "documentation")
    assert found["accuracy"] is None and found["error"] == found["value"]
    assert 0 < found["float_value"] < 8 and 0 < found["value"] < 20
    weights = load(tmp_path / "model.hemp")
    assert weights["embedding.weight"].shape == (96, 64)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
