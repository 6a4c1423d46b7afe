"""HEMPCallback beside callbacks that bring a grid, hold zeros, or go their own way."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import FileOptions, HEMPCallback, load
from hemp_lightning.entropy.formula import soft_entropy
from hemp_lightning.suite.baselines import (
    LOBSTER,
    LSQ,
    DeepCompression,
    FilterPruning,
    KeepZeros,
    MagnitudePruning,
    PostTraining,
)
from hemp_lightning.suite.baselines.lsq import lsq_gradients, lsq_range, rate_gradient
from tests.training.networks import Manual, Net
from tests.training.stranger import fit, stranger


def grid(bits: int, step: float) -> torch.Tensor:
    low, high = lsq_range(bits)
    return torch.arange(low, high + 1).double() * step


@pytest.mark.parametrize(("bits", "order"), [(2, 1), (3, 2)])
def test_the_rate_by_the_step_is_its_slope(bits, order):
    """The closed form against the rate at a slightly larger and a slightly smaller step."""
    torch.manual_seed(bits)
    weights, step, by = torch.randn(600, dtype=torch.float64), 0.31, 1e-6
    leaf = weights.clone().requires_grad_()
    soft_entropy(leaf, grid(bits, step), order).backward()
    above, below = (soft_entropy(weights, grid(bits, s), order) for s in (step + by, step - by))
    found = rate_gradient(weights, torch.tensor(step, dtype=torch.float64), leaf.grad)
    assert float(found) == pytest.approx(float(above - below) / (2 * by), rel=1e-3)


class Kept(LSQ):
    """Keeps the gradients of its steps."""

    def on_train_batch_end(self, *args):
        self.gradients = {n: s.grad for n, s in self.steps.items() if s.grad is not None}
        super().on_train_batch_end(*args)


def test_a_step_learns_from_the_loss_and_the_rate():
    """The gradient of each step is what both formulas say of the same batch."""
    parts = {}
    for strength in (0.0, 2.0):
        lsq = Kept(bits=3, first_last_bits=4)
        module = stranger(optimizer=torch.optim.SGD, rate=1e-9)
        start = copy.deepcopy(module)
        hemp = HEMPCallback(order=2, lambda_entropy=strength)
        fit(module, lsq, hemp, epochs=1, limit_train_batches=1, limit_val_batches=0)
        parts[strength] = lsq.gradients
    trained = {n: p for n, p in start.named_parameters() if n in parts[0.0]}
    everything = [start.get_parameter(n) for n in lsq.steps if not n.startswith("frozen")]
    count = sum(p.numel() for p in everything)
    assert {"net.0.weight", "net.4.weight"} <= set(trained)
    for name, weights in trained.items():
        bits = 4 if name in (next(iter(lsq.steps)), list(lsq.steps)[-1]) else 3
        high = lsq_range(bits)[1]
        step = float((2 * weights.detach().abs().mean() / high**0.5).half())
        leaf = weights.detach().clone().requires_grad_()
        soft_entropy(leaf, grid(bits, step).float(), 2).backward()
        share = weights.numel() / count
        rate = -(leaf.detach() * leaf.grad).sum() / step * share
        expected = 2.0 * rate / (weights.numel() * high) ** 0.5
        found = parts[2.0][name] - parts[0.0][name]
        assert float(found) == pytest.approx(float(expected), rel=2e-2), name


def test_without_lambda_the_term_changes_nothing(tmp_path):
    files = {}
    for name in ("alone", "beside"):
        module, path = stranger(), tmp_path / f"{name}.hemp"
        lsq = LSQ(path if name == "alone" else None, bits=2, first_last_bits=3)
        more = [] if name == "alone" else [HEMPCallback(lambda_entropy=0.0, path=path)]
        fit(module, lsq, *more)
        files[name] = load(path)
    for key in lsq.steps:
        assert torch.equal(files["alone"][key], files["beside"][key]), key
        assert len(files["beside"][key].unique()) <= 8


def test_the_file_is_on_the_learned_grid_and_validation_saw_it(tmp_path):
    module, lsq = stranger(), LSQ(bits=2, first_last_bits=2, step_lr=0.05)
    hemp = HEMPCallback(lambda_entropy=1.0, path=tmp_path / "net.hemp")
    fit(module, lsq, hemp, epochs=3)
    for name, weights in load(hemp.path).items():
        if name in lsq.steps:
            multiples = weights / float(lsq.steps[name].detach().half())
            torch.testing.assert_close(multiples, multiples.round(), atol=1e-3, rtol=0)
    assert len(module.seen_in_validation.unique()) <= 4
    assert len(module.net[0].weight.unique()) > 4  # the real weights are in their place


@pytest.mark.parametrize("point", [3, 8])
def test_resumed_with_grid_and_pruning_it_ends_at_the_same_bytes(tmp_path, point):
    def parts(name):
        path = tmp_path / f"{name}.hemp"
        pruning = MagnitudePruning(0.6, end_epoch=2, every_n_steps=2)
        hemp = HEMPCallback(lambda_entropy=1.0, rate_model="context", path=path)
        return [pruning, LSQ(bits=3, step_lr=0.05), hemp]

    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=point, save_top_k=-1)
    fit(stranger(), *parts("whole"), saved, epochs=3, enable_checkpointing=True)
    torch.manual_seed(7)
    fit(stranger(), *parts("again"), epochs=3, ckpt_path=tmp_path / f"step={point}.ckpt")
    assert (tmp_path / "again.hemp").read_bytes() == (tmp_path / "whole.hemp").read_bytes()


@pytest.mark.parametrize(
    "pruning",
    [
        lambda: MagnitudePruning(0.5, end_epoch=1, every_n_steps=1),
        lambda: MagnitudePruning(0.5, scope="tensor", start_epoch=1),
        lambda: FilterPruning(0.5),
        lambda: LOBSTER(0.01, tolerance=0.5, patience=1),
    ],
)
def test_pruned_weights_are_0_in_the_file_where_cosines_would_be_taken(tmp_path, pruning):
    pruning, module = pruning(), stranger()
    hemp = HEMPCallback(num_levels=5, path=tmp_path / "net.hemp")
    fit(module, pruning, hemp, epochs=2)
    tensors = load(hemp.path)
    assert pruning.masks and pruning.kept_share() < 1
    for name, mask in pruning.masks.items():
        assert (tensors[name][~mask] == 0).all(), name
    assert any(tensors[name].any() for name in pruning.masks)
    # without pruning, kernels of this network are quantized as cosines
    fit(stranger(), hemp, epochs=1)
    assert hemp.codebooks["net.0.weight"].transform == "dct"


def test_what_is_0_when_training_begins_stays_0(tmp_path):
    module = stranger()
    zero = torch.rand_like(module.net[4].weight) < 0.7
    module.net[4].weight.data[zero] = 0.0
    hemp = HEMPCallback(lambda_entropy=0.0, path=tmp_path / "net.hemp")
    fit(module, KeepZeros(), hemp)
    assert (module.net[4].weight[zero] == 0).all()
    assert (load(hemp.path)["net.4.weight"][zero] == 0).all()
    with pytest.raises(ValueError, match="`pruning=keep_zeros`: expected a network with weights"):
        fit(stranger(), KeepZeros())


def test_torchs_own_pruning_keeps_its_zeros(tmp_path):
    module = stranger()
    nn.utils.prune.l1_unstructured(module.net[0], "weight", 0.5)
    mask = module.net[0].weight_mask.bool()
    hemp = HEMPCallback(num_levels=5, path=tmp_path / "net.hemp")
    fit(module, hemp)
    tensors = load(hemp.path)
    assert torch.equal(tensors["net.0.weight_mask"].bool(), mask)
    assert hemp.codebooks["net.0.weight_orig"].transform == "none"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [HEMPCallback(), LSQ()], "`callbacks` must list LSQ before HEMPCallback"),
        (lambda: [HEMPCallback(), LOBSTER()], "`callbacks` must list LOBSTER before HEMPCallback"),
        (lambda: [HEMPCallback(start_epoch=2, end_epoch=2)], "`end_epoch` must be None or an int"),
        (lambda: [LSQ(), HEMPCallback(transform="dct")], "must be auto or none with LSQ, whose"),
        (lambda: [LSQ(), Kept(), HEMPCallback()], "the grid of one callback; found LSQ and Kept"),
        (lambda: [LSQ(), HEMPCallback(forward="continuous")], "`forward` must be 'straight_thr"),
        (
            lambda: [LSQ(), HEMPCallback(lambda_reconstruction=1)],
            "`lambda_reconstruction` must be 0 with LSQ",
        ),
        (lambda: [DeepCompression("x"), HEMPCallback()], "DeepCompression, whose weights share"),
        (lambda: [PostTraining("x"), HEMPCallback()], "PostTraining, which quantizes a network"),
        (
            lambda: [MagnitudePruning(), HEMPCallback(transform="dct")],
            "`transform` must be auto or none with MagnitudePruning",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        fit(stranger(), *make(), epochs=1)
    assert "\n" not in str(caught.value)


def test_hemp_begins_where_the_grid_does(tmp_path):
    module, lsq = stranger(), LSQ(bits=2, first_last_bits=2, start_epoch=1)
    hemp = HEMPCallback(lambda_entropy=1.0, path=tmp_path / "net.hemp")
    fit(module, lsq, hemp, epochs=2)
    assert all(len(weights.unique()) > 4 for weights in module.seen[:8])
    assert all(len(weights.unique()) <= 4 for weights in module.seen[8:])
    assert hemp.codebooks["net.0.weight"].num_levels == 4


def test_from_its_end_the_term_pulls_no_more():
    """Two epochs of which the second has no lambda, against one epoch and one without lambda."""
    whole, parts = stranger(optimizer=torch.optim.SGD), stranger(optimizer=torch.optim.SGD)
    options = {"num_levels": 4, "transform": "none", "refit_every_n_epochs": 0}
    hemp = HEMPCallback(lambda_entropy=2.0, end_epoch=1, **options)
    trainer = fit(whole, hemp)
    assert hemp.current_lambda(trainer) == 0 and len(whole.seen[-1].unique()) <= 4
    first = HEMPCallback(lambda_entropy=2.0, **options)
    fit(parts, first, epochs=1)

    class Same(HEMPCallback):
        def should_refit(self, trainer, epoch_start):
            if not self.codebooks:
                self.codebooks = first.codebooks
            return False

    fit(parts, Same(lambda_entropy=0.0, **options), epochs=1)
    for name, weights in whole.named_parameters():
        assert torch.equal(weights, parts.get_parameter(name)), name


def test_a_grid_that_never_comes_gives_way(tmp_path):
    hemp = HEMPCallback(num_levels=3, path=tmp_path / "net.hemp", transform="none")
    with pytest.warns(UserWarning, match="Training ended before"):
        fit(stranger(), LSQ(start_epoch=5), hemp, epochs=1)
    assert len(load(hemp.path)["net.0.weight"].unique()) <= 3


def train(net, callbacks):
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    data = TensorDataset(torch.randn(32, 1, 8, 8), torch.arange(32) % 4)
    trainer.fit(net, DataLoader(data, batch_size=8))


def test_each_of_several_optimizers_turns_its_own_gradients(tmp_path, monkeypatch):
    turned = []

    def counted(weights, *rest):
        turned.append(tuple(weights.shape))
        return lsq_gradients(weights, *rest)

    monkeypatch.setattr("hemp_lightning.suite.baselines.lsq.lsq_gradients", counted)
    path = tmp_path / "net.hemp"
    train(Manual(), [LSQ(bits=2, first_last_bits=2), HEMPCallback(path=path)])
    assert turned == [(8, 64), (4, 8)] * 8  # two epochs of four batches
    assert len(load(path)["body.1.weight"].unique()) <= 4


def test_filters_are_left_out_of_the_file_with_what_listens(tmp_path):
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    sizes = {}
    for share in (0.0, 0.75):
        torch.manual_seed(0)
        path = tmp_path / f"{share}.hemp"
        options = {"tensors": "layers", "module": "body", "file": FileOptions(reorder_units=True)}
        hemp = HEMPCallback(lambda_entropy=0.0, path=path, **options)
        train(Net(copy.deepcopy(body)), [FilterPruning(share), hemp])
        behind = load(path)["3.weight"]
        sizes[share] = path.stat().st_size, int((behind == 0).all(0).sum())
    assert sizes[0.75][1] >= 24
    assert sizes[0.75][0] < 0.5 * sizes[0.0][0]
