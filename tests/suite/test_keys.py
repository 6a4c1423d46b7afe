"""Words on the command line: what is taken, and what is refused by its full name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import HydraException

from hemp_lightning.suite.check_keys import check_keys, locate, takes
from hemp_lightning.suite.error_reporting import one_line
from hemp_lightning.suite.words import prepared, typed
from tests.suite.test_run import composed


@pytest.mark.parametrize(
    ("word", "key", "near"),
    [
        ("hemp.ordr=3", "`hemp.ordr`", "`hemp.order`"),
        ("+hemp.lamda_entropy=3", "`hemp.lamda_entropy`", "`hemp.lambda_entropy`"),
        ("++model.width=16", "`model.width`", "takes no `width`"),
        ("dataset.batchsize=3", "`dataset.batchsize`", "`dataset.batch_size`"),
        ("trainer.max_epoch=3", "`trainer.max_epoch`", "`trainer.max_epochs`"),
        ("optimizer.learning_rate=3", "`optimizer.learning_rate`", "torch.optim.Adam"),
        ("scheduler.warm_up=0.1", "`scheduler.warm_up`", "`scheduler.warmup`"),
        ("hemp.file.codr=fast", "`hemp.file.codr`", "`hemp.file.coder`"),
        ("callbacks.checkpoint.file=x", "`callbacks.checkpoint.file`", "`callbacks.checkpoint."),
        ("epoch=3", "`epoch`", "`epochs`"),
        ("+modle.name=lenet5", "`modle`", "`model`"),
        ("coder.level=3", "`coder.level`", "takes no `level`"),
        ("task.metrics=iou", "`task.metrics`", "`task.metric`"),
        ("pruning.share=0.5", "`pruning.share`", "no `pruning` in this run"),
        ("model._target_=absent.Small", "`model._target_`", "No module named 'absent'"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(
    tmp_path: Path, word: str, key: str, near: str
) -> None:
    config = composed(tmp_path, word)
    with pytest.raises(ValueError, match="`") as caught:
        check_keys(config, [word])
    assert one_line(caught.value).startswith(key)
    assert near in one_line(caught.value)


def test_a_leaf_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(HydraException) as caught:
        composed(tmp_path, "model=resnte20")
    said = one_line(caught.value)
    assert said.startswith("`model`: expected one of ") and said.endswith("nearest is resnet20")


def test_a_word_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(HydraException) as caught:
        composed(tmp_path, "sweep_name=a=b")
    said = one_line(caught.value)
    assert said.startswith("`sweep_name=a=b`: expected KEY=VALUE") and "hydra.cc" not in said
    assert composed(tmp_path, 'sweep_name="a=b"').sweep_name == "a=b"


def test_hydra_says_nothing_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="No module named 'nowhere'"):
        locate("nowhere.Net")
    assert not caplog.records


def test_keys_of_the_trainer_need_no_sign(tmp_path: Path) -> None:
    config = composed(tmp_path, "trainer.limit_train_batches=3", "trainer.devices=2")
    check_keys(config)
    assert config.trainer.limit_train_batches == 3


def test_a_leaf_that_was_chosen_stays_under_an_own_target() -> None:
    words = ["model=resnet20", "model._target_=mine.Net", "+dataset._target_=mine.Data"]
    assert [word for word in prepared(words) if word.endswith("=own")] == ["dataset=own"]
    assert typed(prepared(words))[0] == ("model", "resnet20")


def test_leaves_of_a_folder_of_the_user_are_groups(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    assert prepared(["--config-dir", str(tmp_path), "recipe=mine"])[-1] == "recipe=mine"
    assert prepared(["recipe=mine"]) == ["++recipe=mine"]


def test_arguments_that_a_class_hands_on_count() -> None:
    arguments, anything = takes("hemp_lightning.suite.datasets.ImageFolder")
    assert {"cache", "batch_size", "shift"} <= set(arguments) and not anything
