"""Self-distillation: it keeps grids that it starts from, and ends in time at a rate of 0."""

import copy
import math

import torch
from torch import nn

from hemp_lightning.calibration import distillation
from hemp_lightning.calibration.grids import grid_codebook, quantizable
from hemp_lightning.calibration.inputs import Call, Inputs
from hemp_lightning.calibration.progress import Progress


def task(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 4))
    return network, Inputs([Call((torch.randn(256, 12),), {})])


def trained(monkeypatch, seconds, start, passes=2000):
    network, inputs = task()
    teacher, names = copy.deepcopy(network), list(quantizable(network))
    rates = []
    watch = distillation._Watch.on_train_batch_end

    def note(self, trainer, *rest):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        watch(self, trainer, *rest)

    monkeypatch.setattr(distillation._Watch, "on_train_batch_end", note)
    monkeypatch.setattr(distillation, "PASSES", passes)
    books = distillation.distil(
        network, teacher, inputs, names, 400, start(network), None, Progress(False, None),
        seconds, 0,
    )  # fmt: skip
    return books, rates


def test_grids_that_weights_were_rounded_to_stay(monkeypatch):
    before = {}

    def start(network):
        for name, weights in quantizable(network).items():
            before[name] = grid_codebook(weights, 0.07)
            weights.data = before[name].quantize(weights.data)
        return before

    books, _ = trained(monkeypatch, math.inf, start)
    for name, book in books.items():
        assert torch.equal(book.levels, before[name].levels)


def test_a_training_that_turns_out_slow_ends_early_at_a_rate_near_0(monkeypatch):
    clock = [0.0]  # of a machine on which the first steps seem quick

    def seconds(self):
        clock[0] += 0.2
        return clock[0]

    monkeypatch.setattr(Progress, "seconds", property(seconds))
    monkeypatch.setattr(distillation, "_seconds_per_step", lambda *rest: 0.01)
    _, rates = trained(monkeypatch, 20.0, lambda network: 7, passes=50_000)
    wanted = 4 * math.ceil(50_000 / 256)
    assert 8 < len(rates) < wanted / 4
    assert rates[-1] < 0.02 * distillation.LEARNING_RATE
