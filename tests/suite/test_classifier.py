"""Distillation, against SciPy and by its effect on training."""

import numpy as np
import pytest
import torch
from lightning import Trainer
from scipy.special import log_softmax
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning.suite.classifier import Classifier, distillation_loss
from hemp_lightning.suite.snapshot import FloatSnapshot


def test_distillation_loss_is_the_divergence_of_softened_predictions():
    rng = np.random.default_rng(0)
    scores, taught = rng.normal(size=(2, 7, 5))
    ours, theirs = log_softmax(scores / 3, axis=1), log_softmax(taught / 3, axis=1)
    expected = 9 * (np.exp(theirs) * (theirs - ours)).sum(1).mean()
    found = distillation_loss(torch.tensor(scores), torch.tensor(taught), 3.0)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def _fit(distillation, epochs=4, teacher=None):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    labels = torch.zeros(64, dtype=torch.long)
    module = Classifier(
        nn.Linear(4, 3),
        3,
        lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        distillation=distillation,
        temperature=1.0,
        teacher=teacher,
    )
    start = {key: value.clone() for key, value in module.network.state_dict().items()}
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[FloatSnapshot(0)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, labels), batch_size=16))
    moved = sum((module.network.state_dict()[k] - start[k]).abs().sum().item() for k in start)
    return module, moved


def test_a_network_taught_by_itself_alone_stays_where_it_is():
    _, alone = _fit(distillation=1.0)
    _, labels = _fit(distillation=0.0)
    assert alone < 1e-5
    assert labels > 0.1


def test_the_teacher_is_no_part_of_the_module():
    module, _ = _fit(distillation=0.5)
    assert sorted(key for key in module.state_dict() if "network" in key) == [
        "network.bias",
        "network.weight",
    ]
    assert len(list(module.parameters())) == 2


def test_another_teacher_is_learned_from_and_not_trained():
    teacher = nn.Linear(4, 3)
    given = {key: value.clone() for key, value in teacher.state_dict().items()}
    module, _ = _fit(distillation=1.0, epochs=400, teacher=teacher)
    own = module.network.state_dict()
    for key, value in given.items():  # scores count up to a shift of all classes
        expected, found = (t - t.mean(0, keepdim=True) for t in (value, own[key]))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
        assert torch.equal(teacher.state_dict()[key], value)
    assert len(list(module.parameters())) == 2
    assert all(key.startswith("network.") or "accuracy" in key for key in module.state_dict())


def _of(network, **options):
    module = Classifier(network, 3, torch.optim.Adam, distillation=0.5, **options)
    module.learn_from(network.state_dict())
    return module._teacher[0]


def test_the_teacher_scores_as_in_evaluation_without_its_norms():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    x = torch.randn(8, 1, 4, 4)
    network(x)  # moves the statistics
    teacher = _of(network)
    torch.testing.assert_close(teacher(x), network.eval()(x))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in teacher.modules())
    assert isinstance(network[1], nn.BatchNorm2d)


def test_a_teacher_that_cannot_be_traced_is_used_as_it_is():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    network, x = Branching(4, 3), torch.randn(5, 4)
    torch.testing.assert_close(_of(network)(x), network(x))


@pytest.mark.parametrize("teacher", [None, nn.Linear(4, 3)])
def test_compile_is_for_the_network_and_the_teacher(monkeypatch, teacher):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append(module))
    network = nn.Linear(4, 3)
    taught_by = _of(network, teacher=teacher, compile=True)
    assert len(compiled) == 2 and compiled[0] is network and compiled[1] is taught_by


@pytest.mark.parametrize("wrong", [{"distillation": 1.5}, {"temperature": 0.0}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        Classifier(nn.Linear(4, 3), 3, torch.optim.Adam, **wrong)
