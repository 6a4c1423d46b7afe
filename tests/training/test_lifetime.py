"""What one HEMPCallback keeps from fit to fit, and what it gives each optimizer."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import FileOptions, HEMPCallback, load, load_into


class Net(LightningModule):
    """A small network; with two optimizers, stepped by hand, one for each layer."""

    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        self.count, self.automatic_optimization = optimizers, False

    def training_step(self, batch, _):
        loss = nn.functional.cross_entropy(self.body(batch[0]), batch[1])
        self.manual_backward(loss)
        optimizers = self.optimizers()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.step()
            optimizer.zero_grad()

    def validation_step(self, batch, _):
        self.levels = None
        hook = self.body[0].register_forward_hook(
            lambda layer, *_: setattr(self, "levels", len(layer.weight.unique()))
        )
        self.body(batch[0])
        hook.remove()

    def configure_optimizers(self):
        groups = [self.parameters()]
        if self.count == 2:
            groups = [self.body[0].parameters(), self.body[2].parameters()]
        return [torch.optim.SGD(group, lr=0.1) for group in groups]


def data():
    images = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(64) % 4), batch_size=16)


def trainer(*callbacks, epochs=3, **options):
    return Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **options,
    )  # fmt: skip


def fresh(**options):
    seed_everything(0, verbose=False)
    return Net(**options)


def test_a_callback_used_again_equals_a_new_one(tmp_path):
    used = HEMPCallback(num_levels=6, lambda_entropy=2.0, path=tmp_path / "a")
    new = HEMPCallback(num_levels=6, lambda_entropy=2.0, path=tmp_path / "b")
    trainer(used, epochs=5).fit(Net(), data())
    for callback in (used, new):
        trainer(callback).fit(fresh(), data())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_two_optimizers_add_what_one_adds():
    ends = []
    for optimizers in (1, 2):
        net = fresh(optimizers=optimizers)
        trainer(HEMPCallback(lambda_entropy=5.0), epochs=1).fit(net, data())
        ends.append(net.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], atol=1e-4, rtol=0)


def test_a_trial_run_leaves_the_file_alone(tmp_path):
    path = tmp_path / "net.hemp"
    path.write_bytes(b"good")
    callback = HEMPCallback(path=path)
    trainer(callback, fast_dev_run=True).fit(fresh(), data())
    assert path.read_bytes() == b"good" and callback.summary.file_bytes > 100


def test_another_module_is_validated_as_it_is():
    net, other, callback = fresh(), Net(), HEMPCallback(num_levels=3)
    fits = trainer(callback)
    fits.fit(net, data())
    with pytest.warns(UserWarning, match="leaves this Net as it is"):
        fits.validate(other, data(), verbose=False)
    assert other.levels > 3
    fits.validate(net, data(), verbose=False)
    assert net.levels <= 3


@pytest.mark.parametrize("num_levels", [3, 12])
def test_codebooks_of_another_size_are_fitted_afresh(num_levels):
    callback, other = HEMPCallback(num_levels=6), HEMPCallback(num_levels=num_levels)
    trainer(callback, epochs=1).fit(fresh(), data())
    with pytest.warns(UserWarning, match=f"`num_levels` {num_levels} from a checkpoint with 6"):
        other.load_state_dict(callback.state_dict())
    assert not other.codebooks


def test_the_transform_of_a_checkpoint_is_kept_with_a_word(tmp_path):
    def convolutions():
        net = fresh()
        kernels = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 8, 3), nn.Flatten())
        net.body = nn.Sequential(kernels, nn.ReLU(), nn.Linear(32, 4))
        return net

    first, second = HEMPCallback(transform="dct"), HEMPCallback(transform="none")
    fits = trainer(first, epochs=1)
    fits.fit(convolutions(), data())
    fits.save_checkpoint(tmp_path / "a.ckpt")
    assert first.codebooks["body.0.1.weight"].transform == "dct"
    with pytest.warns(UserWarning, match=r"keeps the transform that body.0.1.weight had"):
        trainer(second, epochs=2).fit(convolutions(), data(), ckpt_path=tmp_path / "a.ckpt")
    assert second.codebooks["body.0.1.weight"].transform == "dct"


class AtTheEnd(Callback):
    """Does something to the network when training has ended, after the file was written."""

    def __init__(self, action) -> None:
        self.action = action

    def on_train_end(self, trainer, pl_module):
        self.action(pl_module)


def halve(net):
    for parameter in net.parameters():
        parameter.data.mul_(0.5)


def make_pruning_permanent(net):
    prune.remove(net.body[0], "weight")


@pytest.mark.parametrize("action", [halve, make_pruning_permanent])
def test_weights_set_anew_at_the_end_are_those_of_the_file(tmp_path, action):
    net, path = fresh(), tmp_path / "net.hemp"
    if action is make_pruning_permanent:
        prune.l1_unstructured(net.body[0], "weight", 0.5)
    callback = HEMPCallback(num_levels=64, transform="none", path=path)
    with pytest.warns(UserWarning, match="Weights were set anew"):
        trainer(callback, AtTheEnd(action), epochs=1).fit(net, data())
    found, state = load(path), net.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name] - tensor).abs().mean() < 0.01


@pytest.mark.parametrize("action", [lambda net: None, lambda net: load_into(net, net.file)])
def test_a_file_that_still_holds_the_network_is_left(tmp_path, action, recwarn):
    net = fresh()
    net.file = tmp_path / "net.hemp"
    trainer(HEMPCallback(path=net.file), AtTheEnd(action), epochs=1).fit(net, data())
    assert not [w for w in recwarn if "set anew" in str(w.message)]


def test_a_target_needs_an_end_that_is_known():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield torch.randn(16), 1

    with pytest.raises(ValueError, match="needs a training with an end"):
        trainer(HEMPCallback(target_bytes=900)).fit(fresh(), DataLoader(Endless(), 4))


@pytest.mark.parametrize("options", [{"coder": "contxt"}, {"float_dtype": "float8"}])
def test_unknown_words_of_the_file_are_refused_at_once(options):
    with pytest.raises(ValueError, match="must be one of"):
        FileOptions(**options)
