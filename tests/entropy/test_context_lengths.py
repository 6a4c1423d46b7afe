"""The rate of the context model: finite differences, hand counts, and in the callback."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import HEMPCallback, load
from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.coding.context.frequency_coder import FrequencyCoder
from hemp_lightning.entropy.context_lengths import ContextRates, context_lengths, rate_and_gradients
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.transforms import weights_of


def case(seed=0):
    generator = torch.manual_seed(seed)
    levels = torch.tensor([-0.5, -0.1, 0.0, 0.3], dtype=torch.float64)
    weights = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 0.3
    lengths = torch.rand(6, 5, 4, generator=generator, dtype=torch.float64) * 8
    return weights, levels, lengths


def test_gradient_is_the_finite_difference():
    weights, levels, lengths = case()
    other, fewer, more = case(1)[0], levels[:2], case(2)[2][..., :2]
    _, gradients = rate_and_gradients([weights, other], [levels, fewer], [lengths, more])
    for number, tensor in enumerate((weights, other)):
        for place in range(tensor.numel()):
            shifted = []
            for step in (1e-7, -1e-7):
                moved = [weights.clone(), other.clone()]
                moved[number].view(-1)[place] += step
                shifted.append(rate_and_gradients(moved, [levels, fewer], [lengths, more])[0])
            found = (shifted[0] - shifted[1]) / 2e-7
            assert gradients[number].view(-1)[place].item() == pytest.approx(found.item(), abs=1e-7)


def test_on_the_levels_the_rate_is_that_of_the_coder():
    indices = torch.randint(0, 4, (40, 30), generator=torch.manual_seed(1))
    levels = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    lengths = context_lengths(indices, 4)
    rate, _ = rate_and_gradients([levels[indices]], [levels], [lengths])
    size = len(ContextCoder().encode(indices.numpy(), 4))
    assert rate.item() * indices.numel() / 8 == pytest.approx(size, rel=0.02)


def test_with_a_transform_the_rate_is_that_of_the_coder_of_frequencies():
    indices = torch.randint(0, 4, (20, 8, 3, 3), generator=torch.manual_seed(1))
    indices[..., 2:, :] = indices[..., :1, :]  # what only that coder foresees
    weights = torch.tensor([-1.0, 0.0, 0.5, 2.0])[indices]
    book = Codebook(torch.tensor([-1.0, 0.0, 0.5, 2.0]), transform="dct")
    rates = ContextRates()
    rates.take({"w": weights_of(weights, "dct")}, {"w": book})
    rate, _ = rates.rate_and_gradients(["w"], [weights], [book.levels])
    size = len(FrequencyCoder().encode(indices.numpy(), 4))
    assert rate.item() * indices.numel() / 8 == pytest.approx(size, rel=0.02)
    assert len(ContextCoder().encode(indices.numpy(), 4)) > 1.1 * size


def test_counted_by_hand():
    weights = torch.tensor([-3.0, -0.75, 0.0, 0.25, 1.0, 9.0])
    levels = torch.tensor([-1.0, 0.0, 1.0])
    lengths = torch.tensor([[5.0, 1.0, 4.0]]).repeat(6, 1)
    rate, (gradient,) = rate_and_gradients([weights], [levels], [lengths])
    assert rate.item() == pytest.approx((5 + 4 + 1 + 1.75 + 4 + 4) / 6)
    assert (gradient * 6).tolist() == pytest.approx([0, -4, 3, 3, 0, 0])


def test_one_level_and_wrong_shapes():
    rate, (gradient,) = rate_and_gradients(
        [torch.ones(3)], [torch.tensor([0.5])], [torch.zeros(3, 1)]
    )
    assert rate == 0 and gradient.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"`lengths` must have shape \(3, 2\); found \(3, 1\)"):
        rate_and_gradients([torch.ones(3)], [torch.tensor([0.0, 1.0])], [torch.zeros(3, 1)])


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 2))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def trained(path, epochs=8, resume=None, folder=None, **options):
    torch.manual_seed(0)
    x = torch.randn(128, 20)
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=32)
    hemp = HEMPCallback(num_levels=5, rate_model="context", path=path, **options)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[hemp], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(net := Net(), data, ckpt_path=resume)
    if folder is not None:
        trainer.save_checkpoint(folder / "stopped.ckpt")
    return net, hemp


def test_lambda_makes_the_file_smaller(tmp_path):
    _, free = trained(tmp_path / "free.hemp", lambda_entropy=0)
    _, paid = trained(tmp_path / "paid.hemp", lambda_entropy=5)
    assert paid.summary.tensors[0].bytes < 0.7 * free.summary.tensors[0].bytes
    weight = load(tmp_path / "paid.hemp")["body.0.weight"]
    assert (weight[:, 0].abs().sum() > 0) and weight.unique().numel() <= 5


@pytest.mark.parametrize("every", [1, 0])
def test_resumed_training_ends_at_the_same_bits(tmp_path, every):
    options = {"lambda_entropy": 0.3, "refit_every_n_epochs": every}
    whole, _ = trained(None, **options)
    trained(None, epochs=5, folder=tmp_path, **options)
    resumed, _ = trained(None, resume=tmp_path / "stopped.ckpt", **options)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize("every", [2, 1, 0])
def test_lengths_are_taken_once_an_epoch_whenever_codebooks_are(tmp_path, monkeypatch, every):
    taken, take = [], ContextRates.take

    def spy(rates, weights, codebooks):
        taken.append(weights["body.0.weight"].detach().clone())
        take(rates, weights, codebooks)

    monkeypatch.setattr(ContextRates, "take", spy)
    whole = {"lambda_entropy": 0.3, "refit_every_n_epochs": every}
    trained(None, epochs=4, **whole)
    assert len(taken) == 4
    for before, after in pairwise(taken):
        assert not torch.equal(before, after)
    del taken[:]
    trained(None, epochs=2, folder=tmp_path, **whole)
    trained(None, epochs=4, resume=tmp_path / "stopped.ckpt", **whole)
    assert len(taken) == 4


def test_arguments():
    with pytest.raises(ValueError, match="`rate_model` must be one of tuples, context; found 'x'"):
        HEMPCallback(rate_model="x")
