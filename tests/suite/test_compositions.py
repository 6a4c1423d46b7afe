"""Pruning, quantization and HEMP over the real configs: what composes runs, and keeps its zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer

from hemp_lightning import load
from hemp_lightning.suite import experiment
from hemp_lightning.suite.baselines.pruning import Pruning
from hemp_lightning.suite.error_reporting import USER_ERRORS, one_line
from tests.suite.test_configs import GROUPS
from tests.suite.test_run import composed, in_process

SMALL = ["model=lenet300", "callbacks=default", "~callbacks.progress_bar", "logger=none"]
LSQ = "quantization=lsq hemp=default"
PRUNING = [name for name in GROUPS["pruning"] if name not in ("none", "own", "keep_zeros")]
QUICK = [LSQ, f"{LSQ} pruning=magnitude_gradual"]
SLOW = [
    *(f"pruning={name}" for name in PRUNING),
    *(f"hemp=none pruning={name}" for name in ("filters", "lobster")),
    *(f"{LSQ} pruning={name}" for name in ("filters", "lobster")),
    "quantization=lsq pruning=magnitude_gradual",
    "quantization=deep_compression pruning=magnitude",
    # HEMP first, then pruning; pruning first, then HEMP
    "pruning=magnitude pruning.start_epoch=2 hemp.end_epoch=2",
    "pruning=lobster hemp.start_epoch=2 pruning.end_epoch=2",
    f"{LSQ} hemp.start_epoch=2",
    # on kernels, where cosines would be quantized
    "model=resnet20 dataset=digits dataset.image_size=8 pruning=filters_scale",
]
COMPOSITIONS = [*QUICK, *(pytest.param(words, marks=pytest.mark.slow) for words in SLOW)]


class _Stop(Callback):
    """Ctrl-C in the first batch of an epoch; keeps the masks of pruning otherwise."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.masks: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, *args: object) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, Pruning):
                self.masks = callback.masks


def fitted(folder: Path, *words: str, stop: int = -1) -> dict[str, torch.Tensor]:
    """A run whose batches are few; the masks that it ends with."""
    folder.mkdir(exist_ok=True)
    config = composed(folder, "trainer=debug", *SMALL, "epochs=2", *words)
    parts = experiment.prepare(config, folder)
    watch = _Stop(stop)
    parts.trainer.callbacks.insert(0, watch)
    experiment._fit(parts)
    return watch.masks


@pytest.mark.parametrize("words", COMPOSITIONS)
def test_it_runs_keeps_its_zeros_and_resumes_at_the_same_bytes(tmp_path: Path, words: str) -> None:
    masks = fitted(tmp_path / "whole", *words.split())
    tensors = load(tmp_path / "whole" / "model.hemp")
    assert bool(masks) == ("pruning=" in words)
    for name, mask in masks.items():  # units may stand in another order
        assert mask.ndim == 1 or (tensors[name] == 0).sum() >= (~mask).sum(), name
    assert not masks or any(not mask.all() for mask in masks.values())
    assert any(bool(tensor.any()) for tensor in tensors.values() if tensor.ndim > 1)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "again", *words.split(), stop=2)
    torch.manual_seed(99)
    fitted(tmp_path / "again", *words.split(), f"resume={tmp_path / 'again'}")
    assert (tmp_path / "again/model.hemp").read_bytes() == (
        tmp_path / "whole/model.hemp"
    ).read_bytes()


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that prunes and quantizes after training."""
    folder = tmp_path_factory.mktemp("pruned") / "run"
    fitted(folder, "hemp=none", "pruning=magnitude", "pruning.share=0.8", "epochs=1")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["model.hemp", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("method", ["hemp=default", LSQ])
def test_pruned_first_its_zeros_stay(
    tmp_path: Path, pruned: Path, checkpoint: str, method: str
) -> None:
    words = [f"model.checkpoint={pruned / checkpoint}", "pruning=keep_zeros", *method.split()]
    masks = fitted(tmp_path / "run", *words, "float_epochs=0")
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert zeros >= 0.8 * sum(mask.numel() for mask in masks.values()) - 1
    tensors = load(tmp_path / "run" / "model.hemp")
    assert all((tensors[name] == 0).sum() >= (~mask).sum() for name, mask in masks.items())


def test_lsq_without_lambda_is_lsq(tmp_path: Path) -> None:
    fitted(tmp_path / "alone", "quantization=lsq")
    fitted(tmp_path / "beside", *LSQ.split(), "hemp.lambda_entropy=0")
    alone, beside = (load(tmp_path / name / "model.hemp") for name in ("alone", "beside"))
    assert list(alone) == list(beside)
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_the_results_say_what_was_composed(tmp_path: Path) -> None:
    found = in_process(tmp_path / "a", *LSQ.split(), "model=lenet300", "quantization.bits=2")
    assert (found["method"], found["num_levels"]) == ("hemp_lsq", 4)
    assert found["lambda_entropy"] == 4.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("quantization=deep_compression hemp=default", "whose weights share trained values"),
        ("quantization=lloyd_max hemp=default", "which quantizes a network that was trained"),
        ("quantization=uniform hemp=default", "which quantizes a network that was trained"),
        ("quantization=nncodec hemp=default", "which writes a file of its own"),
        ("quantization=lsq hemp=default hemp.forward=continuous", "`forward` must be"),
        ("pruning=magnitude hemp.transform=dct", "`transform` must be auto or none"),
        ("pruning=keep_zeros", "expected a network with weights that are 0"),
        ("pruning=filters pruning.score=size", "`pruning.score`: expected one of"),
        ("pruning=lobster pruning.end_epoch=1", "`pruning.end_epoch`: expected more than 1"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(tmp_path: Path, words: str, said: str) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        fitted(tmp_path / "a", *words.split())
    assert said in one_line(caught.value)
    assert not (tmp_path / "a" / "model.hemp").exists()
