"""Runs that were interrupted and go on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from hemp_lightning.suite import experiment
from hemp_lightning.suite.error_reporting import USER_ERRORS, one_line
from hemp_lightning.suite.resume import checkpoint_of, metrics_in, put_back
from tests.suite.test_run import composed, in_process

SHORT = [
    *("model=lenet300", "float_epochs=1", "epochs=2", "trainer.limit_train_batches=4"),
    *("callbacks=default", "~callbacks.progress_bar", "logger=csv", "dataset.shift=2"),
]
OFTEN = [
    "callbacks.checkpoint.every_n_train_steps=2",
    "callbacks.checkpoint.save_on_train_epoch_end=false",
]


class _Stop(Callback):
    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, images: object, batch: int
    ) -> None:
        if (trainer.current_epoch, batch) == (self.epoch, self.batch):
            raise KeyboardInterrupt


def interrupted(folder: Path, epoch: int, *words: str, batch: int = 0) -> None:
    """A run that Ctrl-C ends in some batch of an epoch."""
    folder.mkdir()
    config = composed(folder, "trainer=debug", *SHORT, *words)
    parts = experiment.prepare(config, folder)
    parts.trainer.callbacks.append(_Stop(epoch, batch))
    with pytest.raises(KeyboardInterrupt):
        experiment.execute(parts)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "csv" / "metrics.csv").open()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    in_process(folder, *SHORT)
    return folder


@pytest.mark.parametrize("epoch", [1, 2])
def test_resumed_at_the_end_of_an_epoch_it_ends_at_the_same_bytes(
    tmp_path: Path, whole: Path, epoch: int
) -> None:
    interrupted(tmp_path / "run", epoch)
    torch.manual_seed(1234)  # whatever the process has drawn before
    in_process(tmp_path / "run", *SHORT, f"resume={tmp_path / 'run'}")
    assert (tmp_path / "run/model.hemp").read_bytes() == (whole / "model.hemp").read_bytes()
    steps = [int(row["step"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert steps == [int(row["step"]) for row in rows(whole) if row["train/loss"]]


def interrupted_within(folder: Path, epoch: int, batch: int, *words: str) -> None:
    """A run with a checkpoint every two batches, interrupted and resumed."""
    often = [*OFTEN, *words]
    interrupted(folder, epoch, *often, batch=batch)
    torch.manual_seed(1234)
    in_process(folder, *SHORT, *often, f"resume={folder}")


@pytest.fixture(scope="module")
def whole_with_a_worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts, whose random shifts are those of a worker."""
    folder = tmp_path_factory.mktemp("worker") / "run"
    in_process(folder, *SHORT, "dataset.workers=1")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "batch"), [(1, 3), (2, 0)])
def test_workers_go_on_where_they_were(
    tmp_path: Path, whole_with_a_worker: Path, epoch: int, batch: int
) -> None:
    interrupted_within(tmp_path / "run", epoch, batch, "dataset.workers=1")
    expected = (whole_with_a_worker / "model.hemp").read_bytes()
    assert (tmp_path / "run/model.hemp").read_bytes() == expected


def test_resumed_within_an_epoch_it_ends_at_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    interrupted_within(tmp_path / "run", 2, 3)
    assert (tmp_path / "run/model.hemp").read_bytes() == (whole / "model.hemp").read_bytes()
    steps = [int(row["step"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert steps == [int(row["step"]) for row in rows(whole) if row["train/loss"]]


def test_a_finished_run_keeps_its_metrics_and_says_that_nothing_is_left(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    in_process(tmp_path / "run", *SHORT, f"resume={tmp_path / 'run'}")
    assert "nothing is left to train" in caplog.text
    assert rows(tmp_path / "run") == rows(whole)
    assert (tmp_path / "run/model.hemp").read_bytes() == (whole / "model.hemp").read_bytes()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hemp.num_levels=7", "`hemp.num_levels`: expected 5"),
        ("model=lenet5", "`model.name`: expected lenet300"),
        ("pruning=magnitude", "`pruning."),
        ("resume=nowhere", "`resume`: expected a checkpoint"),
    ],
)
def test_other_parts_are_refused_before_training(
    tmp_path: Path, whole: Path, word: str, said: str
) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        in_process(tmp_path / "run", *SHORT, f"resume={whole}", word)
    assert one_line(caught.value).startswith(said)
    assert not (tmp_path / "run" / "model.hemp").exists()


def test_another_lambda_is_taken_with_a_word(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*SHORT, f"resume={whole}", "hemp.lambda_entropy=1"]
    experiment.prepare(composed(tmp_path, "trainer=debug", *words), tmp_path)
    assert "another `hemp.lambda_entropy`: 1, where it was 4.0" in caplog.text


def test_a_folder_means_its_newest_checkpoint(tmp_path: Path) -> None:
    import os

    (tmp_path / "checkpoints").mkdir()
    for name, time in (("a", 5), ("b", 9), ("c", 7)):
        file = tmp_path / "checkpoints" / f"{name}.ckpt"
        file.touch()
        os.utime(file, (time, time))
    assert checkpoint_of(str(tmp_path)).name == "b.ckpt"
    with pytest.raises(FileNotFoundError, match=r"folder of a run.*found none in the folder"):
        checkpoint_of(str(tmp_path / "checkpoints" / ".." / ".."))


def test_rows_that_are_trained_again_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "csv" / "metrics.csv"
    file.parent.mkdir()
    file.write_text("step,loss\n1,9\n2,8\n3,7\n")
    before = metrics_in(tmp_path)
    file.write_text("step,acc\n3,1\n4,2\n")
    put_back(before, tmp_path)
    assert file.read_text().split() == ["step,loss,acc", "1,9,", "2,8,", "3,,1", "4,,2"]
