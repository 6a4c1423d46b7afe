"""HEMPCallback on cosine coefficients of kernels: weights outside, coefficients inside."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from scipy.fft import dctn, idctn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import HEMPCallback, load
from hemp_lightning.entropy.formula import entropy_and_gradients
from hemp_reader.reading import inspect


class Network(LightningModule):
    """A convolution, a depthwise one, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, groups=12),
            nn.Flatten(),
            nn.Linear(12 * 16, 3),
        )

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.seen = {n: p.detach().clone() for n, p in self._seen().items()}

    def _seen(self):
        """What a forward pass reads, the quantized tensors meanwhile."""
        found = {}
        layers = {f"net.{i}.weight": layer for i, layer in enumerate(self.net)}

        def look(layer, _):
            name = next(n for n, other in layers.items() if other is layer)
            found[name] = layer.weight

        hooks = [self.net[i].register_forward_pre_hook(look) for i in (0, 2, 4)]
        self.net(torch.zeros(1, 2, 6, 6))
        for hook in hooks:
            hook.remove()
        return found

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def network():
    seed_everything(0, verbose=False)
    return Network()


def loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 2, 6, 6, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(32) % 3), batch_size=8)


def fit(module, *callbacks, epochs=1, ckpt_path=None, **options):
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), num_sanity_val_steps=0,
        **({"enable_checkpointing": False} | options),
    )  # fmt: skip
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return trainer


def cosines(weights):
    if weights.ndim < 3:
        return weights.detach().numpy().astype(np.float64)
    return dctn(weights.detach().numpy().astype(np.float64), axes=(2, 3), norm="ortho")


def test_forward_passes_see_coefficients_on_levels():
    module, callback = network(), HEMPCallback(num_levels=4)
    real = {}

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module):
            real.update({n: p.detach().clone() for n, p in pl_module.named_parameters()})

    fit(module, callback, Watch())
    assert {n: b.transform for n, b in callback.codebooks.items()} == {
        "net.0.weight": "dct",
        "net.2.weight": "dct",
        "net.4.weight": "none",
    }
    for name, book in callback.codebooks.items():
        levels, seen = book.levels.numpy().astype(np.float64), module.seen[name]
        wanted = levels[abs(cosines(real[name])[..., None] - levels).argmin(-1)]
        found = cosines(seen)
        assert np.isclose(found, wanted, atol=1e-6).mean() > 0.99  # but for weights on a threshold
        assert abs(found[..., None] - levels).min(-1).max() < 1e-6
        assert not torch.equal(real[name], seen)


def test_the_gradient_of_the_term_comes_back_to_the_weights():
    """One step of SGD with and without the term differs by the formula's gradient, turned back."""
    module = network()
    start = copy.deepcopy(module)
    callback = HEMPCallback(num_levels=4, lambda_entropy=3.0)
    options = {"limit_train_batches": 1, "limit_val_batches": 0}
    fit(module, callback, **options)
    plain = copy.deepcopy(start)
    fit(plain, HEMPCallback(num_levels=4, lambda_entropy=0.0), **options)
    names = list(callback.codebooks)
    seen = [torch.from_numpy(cosines(start.get_parameter(n))).float() for n in names]
    levels = [callback.codebooks[n].levels for n in names]
    _, gradients = entropy_and_gradients(seen, levels, 2)
    for name, gradient in zip(names, gradients, strict=True):
        wanted = gradient.numpy().astype(np.float64)
        if wanted.ndim > 2:
            wanted = idctn(wanted, axes=(2, 3), norm="ortho")
        moved = (plain.get_parameter(name) - module.get_parameter(name)).detach().numpy()
        np.testing.assert_allclose(moved, 0.1 * 3.0 * wanted, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("target", [None, 700])
def test_the_file_holds_what_was_validated(tmp_path, target):
    module, path = network(), tmp_path / "x.hemp"
    callback = HEMPCallback(num_levels=5, path=path, target_bytes=target)
    names = list(module.state_dict())
    fit(module, callback, epochs=3)
    assert list(module.state_dict()) == names
    state = load(path)
    for name, book in callback.codebooks.items():
        assert state[name].equal(book.quantize(module.get_parameter(name))), name
    found = {tensor.name: tensor.transform for tensor in inspect(path).tensors}
    assert found["net.0.weight"] == found["net.2.weight"] == "dct"
    assert target is None or path.stat().st_size <= target


def test_a_resumed_run_keeps_the_transform(tmp_path):
    whole, options = network(), {"num_levels": 4, "refit_every_n_epochs": 0}
    fit(whole, HEMPCallback(path=tmp_path / "a.hemp", **options), epochs=3)
    cut = fit(network(), HEMPCallback(**options), epochs=2)
    cut.save_checkpoint(tmp_path / "x.ckpt")
    again = HEMPCallback(path=tmp_path / "b.hemp", transform="none", **options)
    fit(network(), again, epochs=3, ckpt_path=tmp_path / "x.ckpt")
    assert again.codebooks["net.0.weight"].transform == "dct"
    assert (tmp_path / "b.hemp").read_bytes() == (tmp_path / "a.hemp").read_bytes()


@pytest.mark.slow
def test_the_rate_of_the_context_coder_is_that_of_coefficients(tmp_path):
    module = network().to(memory_format=torch.channels_last)
    callback = HEMPCallback(num_levels=5, rate_model="context", path=tmp_path / "x.hemp")
    fit(module, callback)
    for name, book in callback.codebooks.items():
        weights = module.get_parameter(name).detach().contiguous()
        assert load(tmp_path / "x.hemp")[name].equal(book.quantize(weights))


def test_pruned_weights_keep_their_places():
    module, callback = network(), HEMPCallback(num_levels=4)
    weight = module.net[0].weight
    weight.data[torch.rand(weight.shape) < 0.9] = 0
    fit(module, callback)
    assert callback.codebooks["net.0.weight"].transform == "none"


def test_transforms_by_name():
    callback = HEMPCallback(num_levels=4, transform={"net.2.weight": "dct"})
    fit(network(), callback)
    found = [book.transform for book in callback.codebooks.values()]
    assert found == ["none", "dct", "none"]
    with pytest.raises(ValueError, match=r"`transform` must be one of auto.* found 'fft'"):
        HEMPCallback(transform="fft")
