"""HEMPCallback on a LightningModule that knows nothing of it."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch._dynamo.utils import counters

import hemp_lightning
from hemp_lightning import FileOptions
from hemp_lightning.entropy.formula import entropy_and_gradients, index_entropy
from tests.training.stranger import Stranger, fit, loader, stranger

# levels are looked for among the weights themselves; test_transform.py has the other case
HEMPCallback = partial(hemp_lightning.HEMPCallback, transform="none")


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("forward", ["straight_through", "continuous"])
def test_an_unknown_module_in_a_full_house(tmp_path, optimizer, forward):
    module = stranger(optimizer=optimizer)
    keys = list(module.state_dict())
    names = [name for name, _ in module.named_parameters()]

    class SameNames(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            assert list(pl_module.state_dict()) == keys
            assert [name for name, _ in pl_module.named_parameters()] == names

    callback = HEMPCallback(
        order=2, num_levels=4, forward=forward, path=tmp_path / "out" / "model.hemp"
    )
    fit(
        module,
        callback,
        SameNames(),
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        precision="bf16-mixed",
    )
    assert list(module.state_dict()) == keys
    tensors = hemp_lightning.load(callback.path)
    assert list(tensors) == keys
    for name, book in callback.codebooks.items():
        parameter = module.get_parameter(name).detach()
        assert torch.equal(tensors[name], book.quantize(parameter)), name
        assert len(tensors[name].unique()) <= 4 < len(parameter.unique())
    assert "output.weight" not in callback.codebooks  # tied: trained and written once
    assert torch.equal(tensors["output.weight"], tensors["embedding.weight"])


def test_forward_sees_levels_and_all_others_real_weights():
    module, callback = stranger(), HEMPCallback(num_levels=4)

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, *args):
            assert len(pl_module.net[0].weight.unique()) > 4

        def on_validation_batch_end(self, trainer, pl_module, *args):
            assert len(pl_module.net[0].weight.unique()) > 4

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            assert len(pl_module.net[0].weight.unique()) > 4

    fit(module, callback, Watch())
    assert all(len(weights.unique()) <= 4 for weights in module.seen)
    assert len(module.seen_in_validation.unique()) <= 4


def test_the_added_gradient_is_lambda_times_that_of_the_formula():
    """One step of SGD with and without the terms differs by the terms' gradient alone."""
    module = stranger(optimizer=torch.optim.SGD, rate=1.0)
    start = copy.deepcopy(module)
    callback = HEMPCallback(order=2, num_levels=4, lambda_entropy=3.0, lambda_reconstruction=5.0)
    fit(module, callback, epochs=1, limit_train_batches=1, limit_val_batches=0)
    plain = copy.deepcopy(start)
    fit(plain, HEMPCallback(num_levels=4, lambda_entropy=0.0), epochs=1, limit_train_batches=1,
        limit_val_batches=0)  # fmt: skip
    names = [n for n in callback.codebooks if not n.startswith("frozen")]
    before = [start.get_parameter(n).detach() for n in names]
    books = [callback.codebooks[n] for n in names]
    _, gradients = entropy_and_gradients(before, [b.levels for b in books], 2)
    count = sum(w.numel() for w in before)
    for name, weights, book, gradient in zip(names, before, books, gradients, strict=True):
        expected = 3.0 * gradient + 5.0 * 2 * (weights - book.quantize(weights)) / count
        moved = plain.get_parameter(name) - module.get_parameter(name)
        torch.testing.assert_close(moved.detach(), expected, atol=1e-6, rtol=1e-4)
    assert torch.equal(module.frozen.weight, start.frozen.weight)


def test_insensitivity_scales_by_the_loss_gradient():
    module = stranger(optimizer=torch.optim.SGD, rate=1.0)
    start, plain = copy.deepcopy(module), copy.deepcopy(module)
    options = {"epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    callback = HEMPCallback(order=1, num_levels=4, lambda_entropy=3.0, insensitivity=True,
                            tensors=["net.0.weight"])  # fmt: skip
    fit(module, callback, **options)
    fit(plain, HEMPCallback(num_levels=4, lambda_entropy=0, tensors=["net.0.weight"]), **options)
    name = "net.0.weight"
    weights = start.get_parameter(name).detach()
    loss_gradient = weights - plain.get_parameter(name).detach()
    scale = 1 - loss_gradient.abs() / loss_gradient.abs().max()
    _, (gradient,) = entropy_and_gradients([weights], [callback.codebooks[name].levels], 1)
    moved = plain.get_parameter(name).detach() - module.get_parameter(name).detach()
    torch.testing.assert_close(moved, 3 * scale * gradient, atol=1e-6, rtol=1e-4)


def test_validation_leaves_the_weights_bit_for_bit():
    module, callback = stranger(), HEMPCallback(num_levels=4)

    class Compare(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            self.weights = copy.deepcopy(pl_module.state_dict())

    compare = Compare()
    trainer = fit(module, callback, compare)
    trainer.validate(module, loader(), verbose=False)
    assert len(module.seen_in_validation.unique()) <= 4
    for key, value in module.state_dict().items():
        assert torch.equal(value, compare.weights[key]), key


def test_before_start_epoch_all_is_float():
    late, never = stranger(), stranger()
    callback = HEMPCallback(num_levels=2, start_epoch=1, lambda_entropy=9.0)
    fit(late, callback, epochs=2)
    fit(never, epochs=1)
    assert all(len(weights.unique()) > 2 for weights in late.seen[:8])
    assert all(len(weights.unique()) == 2 for weights in late.seen[8:])
    for a, b in zip(late.seen[:8], never.seen, strict=True):
        assert torch.equal(a, b)


def test_warmup_is_linear_in_epochs():
    callback, values = HEMPCallback(start_epoch=1, warmup_epochs=2), []

    class Ramp(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            values.append(callback.ramp(trainer))

    fit(stranger(), callback, Ramp(), epochs=4)
    steps = np.arange(32) / 8
    np.testing.assert_allclose(values, np.clip((steps - 1) / 2, 0, 1))


def test_logged_rate_is_the_entropy_of_the_weights():
    module, callback = stranger(), HEMPCallback(order=2, num_levels=4, lambda_entropy=0.0)
    trainer = fit(module, callback, epochs=1, log_every_n_steps=1, limit_train_batches=1)
    assert {"hemp/rate", "hemp/distortion", "hemp/ratio", "hemp/lambda"} <= set(
        trainer.callback_metrics
    )
    rate = trainer.callback_metrics["hemp/rate"].item()
    assert 0 < rate < 2
    assert trainer.callback_metrics["hemp/ratio"].item() == pytest.approx(32 / rate)


def test_more_lambda_means_less_entropy():
    rates = []
    for strength in (0.0, 5.0):
        module, callback = stranger(), HEMPCallback(order=1, lambda_entropy=strength)
        fit(module, callback, epochs=8)
        book = callback.codebooks["net.4.weight"]
        rates.append(index_entropy(book.assign(module.net[4].weight), book.num_levels, 1))
    assert rates[1] < 0.7 * rates[0]


def test_batchnorm_is_recalibrated_on_the_quantized_network(tmp_path):
    module = stranger()
    callback = HEMPCallback(num_levels=3, path=tmp_path / "m.hemp",
                            file=FileOptions(float_dtype="float32"))  # fmt: skip
    fit(module, callback)
    conv = copy.deepcopy(module.net[0])
    tensors = hemp_lightning.load(callback.path)
    conv.weight.data = tensors["net.0.weight"]
    means, variances = [], []
    for images, _ in loader():
        out = conv(images)
        means.append(out.mean((0, 2, 3)))
        variances.append(out.var((0, 2, 3)))
    torch.testing.assert_close(tensors["net.1.running_mean"], torch.stack(means).mean(0))
    torch.testing.assert_close(tensors["net.1.running_var"], torch.stack(variances).mean(0))


@pytest.mark.parametrize("stop", [1, 5, 8, 11])
def test_resume_ends_at_the_same_weights(tmp_path, stop):
    options = {"num_levels": 4, "warmup_epochs": 2, "refit_every_n_steps": 3}
    options |= {"lambda_entropy": 2.0, "path": tmp_path / "a.hemp"}
    whole = stranger()
    fit(whole, HEMPCallback(**options), epochs=3, accumulate_grad_batches=2)
    keep = ModelCheckpoint(tmp_path, "at", every_n_train_steps=stop, save_top_k=-1,
                           enable_version_counter=False)  # fmt: skip
    keep.CHECKPOINT_JOIN_CHAR = ""
    cut = HEMPCallback(**(options | {"path": tmp_path / "cut.hemp"}))
    fit(stranger(), cut, keep, epochs=3, accumulate_grad_batches=2,
        enable_checkpointing=True, max_steps=stop)  # fmt: skip
    resumed = stranger()
    again = HEMPCallback(**(options | {"path": tmp_path / "b.hemp"}))
    fit(resumed, again, epochs=3, accumulate_grad_batches=2, ckpt_path=str(tmp_path / "at.ckpt"))
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert (tmp_path / "a.hemp").read_bytes() == (tmp_path / "b.hemp").read_bytes()


def test_a_file_with_folded_norms_decodes_to_the_same_network(tmp_path):
    found = {}
    for folds in (False, True):
        options = FileOptions(float_dtype="float32", fold_norms=folds)
        callback = HEMPCallback(num_levels=4, path=tmp_path / f"{folds}.hemp", file=options)
        fit(stranger(), callback)
        net = hemp_lightning.load_into(Stranger(), callback.path).eval()
        found[folds] = torch.cat([net.net(images) for images, _ in loader()])
        assert bool((net.net[1].running_mean == 0).all()) == folds
    torch.testing.assert_close(found[True], found[False])


def test_a_run_killed_before_its_file_gets_it_when_it_is_resumed(tmp_path):
    options = {"num_levels": 4, "path": tmp_path / "a.hemp"}
    keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    fit(stranger(), HEMPCallback(**options), keep, epochs=2, enable_checkpointing=True)
    again = HEMPCallback(**(options | {"path": tmp_path / "b.hemp"}))
    fit(stranger(), again, epochs=2, ckpt_path=str(tmp_path / "last.ckpt"))  # nothing to train
    assert (tmp_path / "a.hemp").read_bytes() == (tmp_path / "b.hemp").read_bytes()
    assert again.summary.file_bytes == (tmp_path / "b.hemp").stat().st_size


def test_a_loader_without_batches_leaves_batchnorm_its_statistics(tmp_path):
    module = stranger()
    module.net[1].running_mean.fill_(7.0)
    callback = HEMPCallback(path=tmp_path / "a.hemp")
    with pytest.warns(UserWarning, match="the training loader gave no batch"):
        fit(module, callback, limit_train_batches=0)
    assert hemp_lightning.load(callback.path)["net.1.running_mean"].tolist() == [7.0] * 6


def test_the_same_seed_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        fit(stranger(), HEMPCallback(order=3, path=tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_compiled_network_trains_to_the_same_file(tmp_path):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    class Body(nn.Sequential):  # torch 2.6 does not compile those of its own
        def forward(self, x):
            return super().forward(x)

    fit(stranger(), HEMPCallback(path=tmp_path / "plain.hemp"))
    module = stranger()
    module.net = Body(*module.net)
    module.net.compile(backend=backend)
    counters.clear()
    fit(module, HEMPCallback(path=tmp_path / "compiled.hemp"))
    assert (tmp_path / "compiled.hemp").read_bytes() == (tmp_path / "plain.hemp").read_bytes()
    assert len(graphs) == 3  # of the sanity check, of training and of validation ...
    assert not counters["graph_break"]  # ... and recalibration does not even try


def test_submodule_has_its_own_keys(tmp_path):
    module = stranger()
    callback = HEMPCallback(path=tmp_path / "net.hemp", module="net")
    fit(module, callback, epochs=1)
    assert set(callback.codebooks) == {"0.weight", "4.weight"}
    fresh = hemp_lightning.load_into(Stranger().net, callback.path)
    expected = callback.codebooks["4.weight"].quantize(module.net[4].weight)
    assert torch.equal(fresh[4].weight, expected)


def test_two_callbacks_in_one_trainer(tmp_path):
    module = stranger()
    first = HEMPCallback(num_levels=2, tensors=["net.0.weight"])
    second = HEMPCallback(num_levels=3, tensors=["net.4.weight"])
    assert first.state_key != second.state_key
    fit(module, first, second)
    assert len(module.seen[-1].unique()) == 2


def test_manual_optimization_sees_levels_in_every_forward():
    class Manual(Stranger):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            for _ in range(2):
                optimizer.zero_grad()
                self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

    seed_everything(1, verbose=False)
    module = Manual()
    fit(module, HEMPCallback(num_levels=4), epochs=1)
    assert len(module.seen) == 16 and all(len(w.unique()) <= 4 for w in module.seen)
    assert not torch.equal(module.seen[0], module.seen[-1])
    assert len(module.net[0].weight.unique()) > 4


def test_real_weights_come_back_after_an_error():
    class Broken(Stranger):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 3:
                raise RuntimeError("the disk is full")
            return loss

    seed_everything(1, verbose=False)
    module = Broken()
    with pytest.raises(RuntimeError, match="the disk is full"):
        fit(module, HEMPCallback(num_levels=3))
    assert len(module.seen[-1].unique()) <= 3 < len(module.net[0].weight.unique())


@pytest.mark.parametrize("part", [None, "net"])
def test_a_checkpoint_of_quantized_weights_holds_the_real_ones(tmp_path, part):
    class Saves(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                trainer.save_checkpoint(tmp_path / "at.ckpt")

    module, saves = stranger(), Saves()
    callback = HEMPCallback(num_levels=3, module=part)
    fit(module, callback, saves, epochs=1)
    kept = torch.load(tmp_path / "at.ckpt", weights_only=False)["state_dict"]
    assert len(module.seen_in_validation.unique()) <= 3
    assert torch.equal(kept["net.0.weight"], module.net[0].weight)
