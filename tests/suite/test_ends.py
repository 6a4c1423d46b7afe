"""How the command ends: interrupted, failed, on several devices, and what its log says."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hemp_lightning import load
from hemp_lightning.suite.error_reporting import USER_ERRORS, one_line
from hemp_lightning.suite.logs import logged
from tests.suite.test_run import QUICK, ROOT, here, in_process, results, run

pytestmark = pytest.mark.slow


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    words = ["model=lenet300", "trainer.limit_train_batches=2", "float_epochs=500"]
    words += ["~callbacks.progress_bar", f"hydra.run.dir={folder}"]
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        # Whoever runs tests in the background has them ignore the signal, and their children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 240
    while not list(folder.glob("checkpoints/*.ckpt")) and time.monotonic() < until:
        assert child.poll() is None, child.communicate()
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert f"kept: {folder}/checkpoints/last.ckpt" in said
    command = said.strip().splitlines()[-1]
    assert command.startswith("python run.py model=lenet300 ") and "++" not in command
    assert command.endswith(f"resume={folder}/checkpoints/last.ckpt hydra.run.dir={folder}")


def test_two_devices_write_one_set_of_results(tmp_path: Path) -> None:
    done = run(tmp_path / "a", *QUICK, "model=lenet300", "trainer.devices=2")
    found = results(tmp_path / "a")
    assert found["file_bytes"] == (tmp_path / "a" / "model.hemp").stat().st_size
    assert done.stdout.count("model.hemp, decoded") == 1
    assert 0 < found["accuracy"] <= 1


def test_a_sweep_on_two_devices_runs_all_its_jobs(tmp_path: Path) -> None:
    words = ["-m", *QUICK, "model=lenet300", "trainer.devices=2", "hemp.order=1,2"]
    run(tmp_path / "s", *words, where="hydra.sweep.dir")
    found = [results(path.parent) for path in tmp_path.glob("s/*/results.json")]
    assert sorted(entry["order"] for entry in found) == [1, 2]


@pytest.mark.parametrize("word", ["sweep=grid", "launcher=joblib"])
def test_a_sweep_without_its_sign_is_refused(tmp_path: Path, word: str) -> None:
    if word == "launcher=joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = here(tmp_path / "a", *QUICK, word, code=1)
    assert f"-m {word}" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "a" / "model.hemp").exists()


def test_a_package_that_is_missing_is_named() -> None:
    from hydra.errors import MissingConfigException

    error = MissingConfigException(
        "In 'launcher/ray': Could not find 'hydra/launcher/ray'\n\nAvailable options:", "x"
    )
    assert "pip install hydra-ray-launcher" in one_line(error)


def test_the_error_of_an_earlier_try_goes_with_success(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "error.txt").write_text("an earlier one")
    in_process(tmp_path / "a", "model=lenet300")
    assert not (tmp_path / "a" / "error.txt").exists()


def test_the_log_holds_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with logged(tmp_path):
        in_process(tmp_path / "a", "model=lenet300")
        noise.info("advice of others")
        logging.getLogger("mymodel").warning("a warning of the user's")
    text = (tmp_path / "run.log").read_text()
    for line in ("training for 2 epochs", "epoch 1 of 2: ", "epoch 2 of 2: ", "hemp/rate"):
        assert line in text
    assert "reading " in text and "testing the decoded network" in text
    assert "advice of others" in text and "a warning of the user's" in text


def test_debug_limits_all_that_comes_after_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hemp_lightning.suite.classifier import Classifier

    seen = {"validation_step": 0, "test_step": 0, "training_step": 0}

    def counted(name: str):
        step = getattr(Classifier, name)

        def counting(self: Classifier, batch: tuple[Tensor, Tensor], batch_idx: int):
            seen[name] += 1
            return step(self, batch, batch_idx)

        return counting

    for name in seen:
        monkeypatch.setattr(Classifier, name, counted(name))
    words = ["model=resnet20", "dataset.image_size=8", "trainer.num_sanity_val_steps=0"]
    in_process(tmp_path / "a", *words)
    assert seen["validation_step"] == 2 + 2  # an epoch each, then the float and the decoded one
    assert seen["test_step"] == 2
    assert seen["training_step"] == 2 * 2 + 2  # two epochs of two, and the statistics


class TensorQuantizer:
    """Gives levels and no codebook."""

    num_levels = 4

    def fit(self, weights: Tensor, init: object = None) -> Tensor:
        return torch.linspace(-1, 1, 4)


def test_a_quantizer_that_gives_no_codebook_is_told_so(tmp_path: Path) -> None:
    word = f"hemp.quantizer._target_={__name__}.TensorQuantizer"
    with pytest.raises(USER_ERRORS) as caught:
        in_process(tmp_path / "a", "hemp.quantizer=null", word)
    said = one_line(caught.value)
    assert said.startswith("`hemp.quantizer`: expected") and "Codebook" in said


def test_an_unexpected_error_keeps_its_traceback_and_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\nclass Broken(torch.nn.Linear):\n"
        "    def __init__(self, num_classes):\n        super().__init__(784, num_classes)\n"
        "    def forward(self, images):\n        return images + 'a word'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = here(tmp_path / "a", *QUICK, "model._target_=mine.Broken", code=1)
    error, where = done.stderr.splitlines()[-2:]
    assert error.startswith("error: TypeError: ")
    assert where == f"The traceback is in {tmp_path / 'a' / 'error.txt'}, too."
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "return images + 'a word'" in done.stderr
    for file in ("error.txt", "run.log"):
        assert "return images + 'a word'" in (tmp_path / "a" / file).read_text()


def test_jobs_that_share_a_cache_do_not_share_a_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from hemp_lightning.suite.datasets import ImageFolder

    for split in ("train", "test"):
        for label in "ab":
            (tmp_path / "leaves" / split / label).mkdir(parents=True)
            for number in range(4):
                image = Image.fromarray(np.full((8, 8, 3), number, np.uint8))
                image.save(tmp_path / "leaves" / split / label / f"{number}.png")
    options = {"root": str(tmp_path / "leaves"), "cache": str(tmp_path / "cache")}
    written = []
    save = np.savez

    def while_another_writes(stream, **arrays: np.ndarray) -> None:
        if not written:
            written.append(stream.name)
            other = ImageFolder(**options, val_fraction=0.25)
            other.setup()  # the second job starts and ends while the first one writes
        written.append(stream.name)
        save(stream, **arrays)

    monkeypatch.setattr(np, "savez", while_another_writes)
    data = ImageFolder(**options, val_fraction=0.25)
    data.setup()
    assert data.name == "leaves" and len(set(written)) == 2
    assert [file.name.startswith("images-") for file in (tmp_path / "cache").iterdir()] == [True]
    assert ImageFolder(**options, name="oak").name == "oak"


def test_floats_of_a_file_are_those_of_the_results(tmp_path: Path) -> None:
    found = in_process(tmp_path / "a", "model=lenet300")
    assert set(load(tmp_path / "a" / "model.hemp")) == {
        f"fc{layer}.{kind}" for layer in (1, 2, 3) for kind in ("weight", "bias")
    }
    assert found["metric"] == "accuracy" and found["float_epochs"] == 1
