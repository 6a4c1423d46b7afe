"""Pruning: masks against NumPy, the schedule by hand, weights that stay at 0 while they train."""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np
import pytest
import torch

from hemp_lightning.suite.baselines import LOBSTER, MagnitudePruning
from hemp_lightning.suite.baselines.pruning import Pruning, cubic_share, magnitude_masks
from hemp_lightning.suite.classifier import Classifier
from hemp_lightning.suite.datasets import Arrays, InMemory
from hemp_lightning.suite.models import build


class Toy(InMemory):
    """Noise with labels in it: 200 images of 1x6x6, three classes."""

    def read(self) -> Arrays:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(200) % 3
        images = torch.randint(0, 60, (200, 1, 6, 6), generator=generator)
        images[torch.arange(200), 0, labels] += 150
        images = images.to(torch.uint8)
        return Arrays(images, labels, images[:30], labels[:30])


def fit(callback: Pruning, epochs: int = 4) -> tuple[Classifier, lightning.Trainer]:
    lightning.seed_everything(0, verbose=False)
    data = Toy(batch_size=20)
    module = Classifier(
        build("lenet300", 3, 1, 6), 3, partial(torch.optim.Adam, lr=5e-3, weight_decay=1e-3)
    )
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return module, trainer


def zeros(module: Classifier) -> float:
    weights = [w for n, w in module.network.named_parameters() if n.endswith("weight")]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 0.999])
def test_masks_drop_the_smallest(share: float) -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(30, 7), "b": 3 * torch.randn(11, 3, 3, 3)}
    together = np.concatenate([w.abs().numpy().ravel() for w in weights.values()])
    border = np.sort(together)[int(share * together.size) :][0]
    for name, mask in magnitude_masks(weights, share, "network").items():
        assert np.array_equal(mask.numpy(), np.abs(weights[name].numpy()) >= border)
    for name, mask in magnitude_masks(weights, share, "tensor").items():
        flat = np.abs(weights[name].numpy())
        border = np.sort(flat.ravel())[int(share * flat.size) :][0]
        assert np.array_equal(mask.numpy(), flat >= border)


def test_equal_magnitudes_still_give_the_share() -> None:
    mask = magnitude_masks({"a": torch.ones(10)}, 0.3)["a"]
    assert int(mask.sum()) == 7


def test_cubic_schedule_by_hand() -> None:
    assert [cubic_share(p, 0.8) for p in (-1, 0, 0.5, 1, 2)] == pytest.approx(
        [0, 0, 0.8 * 7 / 8, 0.8, 0.8]
    )


@pytest.mark.parametrize("scope", ["network", "tensor"])
def test_one_shot_holds_while_training_goes_on(scope: str) -> None:
    callback = MagnitudePruning(0.7, scope, start_epoch=1)
    module, trainer = fit(callback)
    assert zeros(module) == pytest.approx(0.7, abs=1e-3)
    assert float(trainer.callback_metrics["val/accuracy"]) > 0.8
    names = {name for name, _ in module.network.named_parameters()}
    assert names == {f"fc{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")}


def test_gradual_never_brings_a_weight_back_and_ends_at_the_share() -> None:
    callback = MagnitudePruning(0.8, start_epoch=0, end_epoch=3, every_n_steps=2)
    shares = [callback.share_at(e / 10) for e in range(45)]
    assert shares == sorted(shares) and shares[-1] == 0.8
    module, _ = fit(callback, epochs=5)
    assert zeros(module) == pytest.approx(0.8, abs=1e-3)


def test_lobster_prunes_within_its_tolerance() -> None:
    callback = LOBSTER(lambda_decay=1e-2, tolerance=0.05, patience=1)
    module, _ = fit(callback, epochs=6)
    assert 0.2 < zeros(module) < 1.0
    kept = sum(int(mask.sum()) for mask in callback.masks.values())
    total = sum(mask.numel() for mask in callback.masks.values())
    assert zeros(module) == pytest.approx(1 - kept / total, abs=1e-6)


def test_lobster_decays_by_one_minus_the_gradient() -> None:
    module = Classifier(torch.nn.Linear(2, 1, bias=False), 2, torch.optim.Adam)
    weight = module.network.weight
    weight.data = torch.tensor([[1.0, 2.0]])
    weight.grad = torch.tensor([[0.25, -3.0]])
    callback = LOBSTER(lambda_decay=0.1)
    trainer = type("Trainer", (), {"current_epoch": 0})()
    callback.on_before_optimizer_step(trainer, module, None)
    callback.on_train_batch_end(trainer, module, None, None, 0)
    # the second gradient is larger than 1: the loss feels that weight, it is left alone
    assert weight.tolist() == [[pytest.approx(1 - 0.1 * 0.75), 2.0]]


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (MagnitudePruning, {"share": 1.0}, "`pruning.share`"),
        (MagnitudePruning, {"scope": "layer"}, "`pruning.scope`"),
        (MagnitudePruning, {"start_epoch": 5, "end_epoch": 2}, "`pruning.end_epoch`"),
        (LOBSTER, {"lambda_decay": -1.0}, "`pruning.lambda_decay`"),
    ],
)
def test_bad_arguments(kind: type, arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**arguments)
