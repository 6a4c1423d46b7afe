"""Control of lambda to a wanted size or accuracy."""

from __future__ import annotations

import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import HEMPCallback, load
from hemp_lightning.entropy.formula import index_entropy
from hemp_lightning.quantization.quantizers import Codebook, UniformQuantizer
from hemp_lightning.training.lambda_control import AIM, LambdaControl
from hemp_lightning.training.target_steering import Approach
from hemp_lightning.training.trim import rate_aware, trim


def follow(target, response, steps=400):
    """A file whose log size moves towards `9 - response * log(lambda)`, a little each step."""
    control, size = LambdaControl(), math.log(20_000)
    for step in range(steps):
        control = control.by_bytes(math.exp(size), target, step / steps)
        slowness = 0.05 * (1 + math.cos(math.pi * step / steps)) / 2  # as the learning rate falls
        size += slowness * (9.0 - response * math.log(control.factor) - size)
    return math.exp(size)


@pytest.mark.parametrize("target", [1_000, 3_000, 12_000])
@pytest.mark.parametrize("response", [0.5, 1.0])
def test_a_slow_plant_arrives(target, response):
    assert follow(target, response) == pytest.approx(AIM * target, rel=0.08)


@pytest.mark.parametrize("response", [0.5, 1.0])
def test_within_reach_nothing_is_left_to_trim(response):
    assert 0.97 * 12_000 < follow(12_000, response) <= 12_000


def shrink(target, speed, constant_rate=False, steps=600):
    """A rate that falls by the power 0.65 of the pull so far, as ResNet-32's and -56's did.

    `pull` is the sum of lambda ** 1.54 times the learning rate; from there nothing comes back.
    """
    control, pull, factors = LambdaControl(), 0.0, []
    size = full = 126_000.0
    for step in range(steps):
        control = control.by_bytes(size, target, step / steps)
        factors.append(control.factor)
        rate = 0.5 if constant_rate else (1 + math.cos(math.pi * step / steps)) / 2
        pull += speed * control.factor**1.54 * rate / steps
        size = full * (1 - pull**0.65 / 1.3)
    return size, factors


@pytest.mark.parametrize("target", [30_000, 60_000, 80_000])
@pytest.mark.parametrize("speed", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("constant_rate", [False, True])
def test_a_plant_without_return_arrives(target, speed, constant_rate):
    size, _ = shrink(target, speed, constant_rate)
    assert size == pytest.approx(AIM * target, rel=0.025)


def test_lambda_stays_nearly_constant_on_the_way():
    _, factors = shrink(80_000, 0.7)
    settled = factors[len(factors) // 20 : 2 * len(factors) // 3]
    assert max(settled) < 2 * min(settled)


def test_a_target_above_the_file_lets_lambda_fall():
    control = LambdaControl()
    for progress in (0.0, 0.2, 0.4):
        control = control.by_bytes(1_000, 50_000, progress)
    assert control.factor == 1  # nothing shrinks: neither does lambda
    assert control.by_bytes(800, 50_000, 0.5).factor < 0.5


def test_before_weights_cross_a_threshold_lambda_does_not_run_away():
    control = LambdaControl()
    for step in range(11):
        control = control.by_bytes(10_000, 1_000, step / 100)
    assert 10 < control.factor < 100


def test_at_the_target_from_the_start():
    control = LambdaControl().by_bytes(AIM * 1_000, 1_000, 0.0)
    assert control.by_bytes(AIM * 1_000, 1_000, 0.5).factor == 1


def test_accuracy_moves_lambda_the_right_way():
    assert LambdaControl().by_accuracy(0.99, 0.97, 0.3).factor > 1
    assert LambdaControl().by_accuracy(0.95, 0.97, 0.3).factor < 1
    assert LambdaControl().by_accuracy(0.97, 0.97, 0.3).factor == pytest.approx(1)
    assert LambdaControl().by_accuracy(1.0, 0.5, 0.3).factor == pytest.approx(math.exp(0.7))


def test_in_the_last_third_accuracy_only_lets_lambda_fall():
    assert LambdaControl().by_accuracy(0.99, 0.97, 0.7).factor == 1
    sooner = LambdaControl().by_accuracy(0.96, 0.97, 0.6).factor
    later = LambdaControl().by_accuracy(0.96, 0.97, 0.7).factor
    assert sooner == pytest.approx(0.75**0.5) and later == pytest.approx(0.75**4)


def test_rate_aware_cells_are_those_of_least_cost():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(20_000, generator=generator)
    codebook = UniformQuantizer(9).fit(weights)
    moved = rate_aware(codebook, weights, price=0.05)
    counts = np.bincount(codebook.assign(weights).numpy(), minlength=9)
    bits = -np.log2(np.maximum(counts, 1) / len(weights))
    levels = codebook.levels.double().numpy()
    gap = np.diff(levels).min()
    costs = (weights.double().numpy()[:, None] - levels) ** 2 + 0.05 * gap**2 * bits
    assert np.mean(costs.argmin(1) != moved.assign(weights).numpy()) < 1e-3
    assert index_entropy(moved.assign(weights), 9, 1) < index_entropy(
        codebook.assign(weights), 9, 1
    )


def test_a_common_level_keeps_its_weights_behind_an_unused_one():
    weights = torch.tensor([-2.0] * 5 + [0.0] * 90 + [2.0] * 5)
    codebook = Codebook(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    for price in (0.1, 0.3, 1.0, 10.0):
        moved = rate_aware(codebook, weights, price)
        assert (moved.assign(weights)[5:95] == 2).all()
    assert (moved.assign(weights) == 2).all()
    # a second price comes on top of the first
    twice = rate_aware(rate_aware(codebook, weights, 0.1), weights, 0.2)
    torch.testing.assert_close(twice.thresholds, rate_aware(codebook, weights, 0.3).thresholds)


def test_trim_goes_as_far_as_it_must():
    weights = {"a": torch.randn(5000, generator=torch.Generator().manual_seed(1))}
    codebooks = {"a": UniformQuantizer(9).fit(weights["a"])}

    def num_bytes(books):
        return int(5000 / 8 * index_entropy(books["a"].assign(weights["a"]), 9, 1))

    full = num_bytes(codebooks)
    wanted = int(0.7 * full)
    assert 0.995 * wanted <= num_bytes(trim(weights, codebooks, wanted, num_bytes)) <= wanted
    with pytest.raises(ValueError, match="`target_bytes` must be within reach"):
        trim(weights, codebooks, -1, num_bytes)


def test_a_file_that_is_small_enough_is_measured_once():
    weights = {"a": torch.randn(100)}
    codebooks, sizes = {"a": UniformQuantizer(9).fit(weights["a"])}, iter([1000])
    landed = Approach(1000, None, "val/accuracy", 0.1).land(
        weights, codebooks, lambda books: next(sizes)
    )
    assert landed == codebooks


def test_one_level_stays():
    codebook = Codebook(torch.tensor([0.5]))
    assert rate_aware(codebook, torch.ones(3), 1.0) is codebook


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 2))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val/accuracy", (self.body(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Stop(Callback):
    def on_validation_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 3


def fit(epochs=12, validation=None, more=(), net=None, **options):
    seed_everything(0)
    x = torch.randn(512, 20)
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=64)
    callback = HEMPCallback(num_levels=8, lambda_entropy=0.1, **options)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback, *more],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net or Net(), data, data if validation else None)
    return callback


@pytest.mark.parametrize("target", [900, 1500])
@pytest.mark.slow
def test_the_file_is_at_most_the_target(tmp_path, target):
    path = tmp_path / "net.hemp"
    callback = fit(target_bytes=target, path=path)
    assert path.stat().st_size == callback.summary.file_bytes <= target
    assert callback.summary.file_bytes > 0.7 * target  # a layer of 20 to 256 has few weights


@pytest.mark.slow
def test_the_file_is_at_most_the_target_with_other_statistics(tmp_path, monkeypatch):
    def recalibrate(trainer, pl_module, module, num_batches):
        module.body[1].running_mean.normal_()
        module.body[1].running_var.uniform_(0.5, 2.0)

    class NormNet(Net):
        def __init__(self):
            super().__init__()
            self.body.insert(1, nn.BatchNorm1d(256, affine=False, momentum=0.0))

    monkeypatch.setattr("hemp_lightning.training.write_file.recalibrate", recalibrate)
    path = tmp_path / "net.hemp"
    fit(net=NormNet(), epochs=6, target_bytes=2500, path=path)
    assert 2000 < path.stat().st_size <= 2500


def test_it_is_told_early_that_levels_hold_the_file_up():
    approach = Approach(1000, None, "val/accuracy", 0.1)
    approach.load_state_dict(
        {"first_step": 0, "control": asdict(LambdaControl(factor=1e3)), "measured": None}
    )
    summary = SimpleNamespace(tensors=[], file_bytes=2000)
    with pytest.warns(UserWarning, match="1000 times `lambda_entropy`, .* 1,000: "):
        approach.measure(summary, [], 1.0)


def test_the_callback_says_how_far_training_is(monkeypatch):
    seen, rule = [], LambdaControl.by_accuracy

    def spy(control, accuracy, target, progress):
        seen.append(progress)
        return rule(control, accuracy, target, progress)

    monkeypatch.setattr(LambdaControl, "by_accuracy", spy)
    fit(epochs=6, target_accuracy=0.9, validation=True, start_epoch=2)
    # 8 steps an epoch; the first of them sets the start
    assert seen == pytest.approx([8 / 32, 16 / 32, 24 / 32, 1.0], abs=1 / 31)


def test_steps_of_two_optimizers_are_no_more_training_than_of_one():
    approach = Approach(None, 0.9, "val/accuracy", 0.1)
    trainer = SimpleNamespace(
        optimizers=[None, None], estimated_stepping_batches=10, global_step=4, callback_metrics={}
    )
    approach.follow_bytes(trainer, None)  # the first step
    trainer.global_step = 12
    assert approach._progress(trainer) == 0.5


def test_the_file_holds_what_the_trimmed_codebooks_say(tmp_path):
    # at this price some levels are not in their own cells: a second assignment would move them
    callback = fit(epochs=2, target_bytes=1100, path=tmp_path / "net.hemp")
    books = callback.codebooks
    assert any(
        (book.assign(book.levels) != torch.arange(book.num_levels)).any() for book in books.values()
    )
    decoded = load(tmp_path / "net.hemp")
    for name, parameter in callback._network.parameters.items():
        torch.testing.assert_close(decoded[name], books[name].quantize(parameter), rtol=0, atol=0)


def test_a_low_accuracy_lets_lambda_rise():
    lax = fit(target_accuracy=0.6, validation=True)
    strict = fit(target_accuracy=0.999, validation=True)
    assert lax.approach.factor > strict.approach.factor


def test_an_accuracy_needs_no_end():
    lax = fit(epochs=-1, target_accuracy=0.6, validation=True, more=[Stop()])
    assert lax.approach.factor > 1


@pytest.mark.parametrize("every", [0, 1, 3])
def test_the_file_is_measured_once_an_epoch(monkeypatch, every):
    sizes, measure = [], Approach.measure

    def spy(approach, summary, coded, rate):
        sizes.append(summary.file_bytes)
        measure(approach, summary, coded, rate)

    monkeypatch.setattr(Approach, "measure", spy)
    fit(epochs=4, target_bytes=1500, refit_every_n_epochs=every)
    assert len(sizes) == 4 and sizes[-1] < sizes[0]


@pytest.mark.parametrize("options, count", [({}, 12), ({"target_bytes": 1500}, 6)])
def test_codebooks_stay_from_half_of_a_training_to_a_size(monkeypatch, options, count):
    fits, refit = [], HEMPCallback._refit
    monkeypatch.setattr(
        HEMPCallback,
        "_refit",
        lambda callback, trainer: (fits.append(trainer.current_epoch), refit(callback, trainer)),
    )
    fit(epochs=12, **options)
    assert fits == list(range(count))


def test_a_target_travels_with_a_checkpoint():
    callback = fit(target_bytes=1500)
    other = HEMPCallback(target_bytes=1500)
    other.load_state_dict(callback.state_dict())
    assert other.approach.factor == callback.approach.factor != 1
    assert other.state_dict()["approach"] == callback.state_dict()["approach"]


def test_without_a_target_lambda_is_the_given_one_also_after_a_checkpoint_with_one():
    callback = fit(target_bytes=1500)
    other = HEMPCallback()
    other.load_state_dict(callback.state_dict())
    assert other.approach.factor == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"target_bytes": 10, "target_accuracy": 0.9}, "at most one of the two"),
        ({"target_bytes": 0}, "`target_bytes` must be above 0"),
        ({"target_accuracy": 99.0}, "not in percent"),
        ({"target_bytes": 10, "lambda_entropy": 0}, "`lambda_entropy` must be above 0"),
    ],
)
def test_bad_targets(options, message):
    with pytest.raises(ValueError, match=message):
        HEMPCallback(**options)


def test_accuracy_needs_a_validation():
    with pytest.raises(ValueError, match="needs a validation"):
        fit(target_accuracy=0.9)


def test_an_unknown_monitor_is_named():
    with pytest.raises(ValueError, match="`monitor` must be a logged metric"):
        fit(target_accuracy=0.9, monitor="accuracy", validation=True)


def test_training_without_an_end_is_refused():
    with pytest.raises(ValueError, match="needs a training with an end"):
        fit(epochs=-1, target_bytes=1000)
