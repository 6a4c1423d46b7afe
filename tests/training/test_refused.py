"""What HEMPCallback refuses before training, and what it warns of."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hemp_lightning
from hemp_lightning import FileOptions, HEMPCallback
from hemp_lightning.quantization.selection import select_tensors
from tests.training.stranger import Stranger, fit, stranger


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, "`order` must be finite and at least 1; found 0"),
        ({"num_levels": 1}, "`num_levels` must be from 2 to 65536; found 1"),
        ({"lambda_entropy": -0.1}, "`lambda_entropy` must be finite and at least 0; found -0.1"),
        ({"scope": "layer"}, "`scope` must be one of tensor, network; found 'layer'"),
        ({"scan": "zigzag"}, "`scan` must be one of row_major"),
        ({"forward": "soft"}, "`forward` must be one of straight_through, continuous"),
        ({"quantizer": "octave"}, "`quantizer` must be one of uniform"),
        ({"start_epoch": -1}, "`start_epoch` must be finite and at least 0"),
        ({"rate_model": "guess"}, "`rate_model` must be one of tuples, context"),
        ({"target_bytes": 9, "target_accuracy": 0.9}, "expected at most one of the two"),
        ({"target_bytes": 0}, "`target_bytes` must be above 0; found 0"),
        ({"target_accuracy": 95.0}, "between 0 and 1, not in percent; found 95.0"),
        ({"target_bytes": 9, "lambda_entropy": 0}, "`lambda_entropy` must be above 0 with a"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        HEMPCallback(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 2.5}, "`order` must be an integer; found 2.5"),
        ({"order": True}, "`order` must be an integer; found True"),
        ({"lambda_entropy": "0.1"}, "`lambda_entropy` must be a number; found '0.1'"),
        ({"insensitivity": "no"}, "`insensitivity` must be True or False; found 'no'"),
        ({"file": {"coder": "fast"}}, "`file` must be `FileOptions`; found"),
        ({"target_bytes": "2kB"}, "`target_bytes` must be a number or None; found '2kB'"),
    ],
)
def test_arguments_of_another_kind(options, message):
    with pytest.raises(TypeError, match=message):
        HEMPCallback(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensors": ["net.0.wait"]}, "found 'net.0.wait', which matches none of net.0.weight"),
        ({"module": "nets"}, "`module` must be a submodule of Stranger"),
    ],
)
def test_names_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        fit(stranger(), HEMPCallback(**options))


def test_a_weight_that_is_not_finite_is_named():
    module = stranger()
    module.net[4].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"Cannot fit a codebook to `net.4.weight`"):
        fit(module, HEMPCallback())


def test_lbfgs_is_refused():
    with pytest.raises(ValueError, match="found LBFGS"):
        fit(stranger(optimizer=torch.optim.LBFGS), HEMPCallback())


def test_batches_of_recalibration_are_checked():
    with pytest.raises(ValueError, match="`recalibrate_batches` must be finite and at least 0"):
        HEMPCallback(recalibrate_batches=-1)


def test_a_training_that_ends_too_early_is_told(tmp_path):
    callback = HEMPCallback(
        num_levels=3, start_epoch=5, transform="none", path=tmp_path / "net.hemp"
    )
    with pytest.warns(UserWarning, match="Training ended before `start_epoch` 5"):
        fit(stranger(), callback, epochs=1)
    assert len(hemp_lightning.load(callback.path)["net.0.weight"].unique()) <= 3


class Outside(Stranger):
    """Uses a weight where no forward pass of a module does."""

    def __init__(self):
        super().__init__()
        self.table = nn.Linear(4, 4, bias=False)

    def training_step(self, batch, batch_idx):
        seen = F.linear(torch.ones(1, 4), self.table.weight)
        return super().training_step(batch, batch_idx) + seen.square().sum()


class TiedByHand(Stranger):
    """A table that is looked up by a module, and then used past it."""

    def training_step(self, batch, batch_idx):
        logits = F.linear(self.net(batch[0]), self.embedding.weight)
        rows = self.embedding(batch[1])
        return F.cross_entropy(logits, batch[1]) + rows.square().sum()


class Penalties(Stranger):
    """Terms of the weights alone, which real weights are right for."""

    def training_step(self, batch, batch_idx):
        rows = self.net[4].weight
        apart = (rows @ rows.T - torch.eye(10)).square().sum()
        decay = sum(parameter.square().sum() for parameter in self.net.parameters())
        return super().training_step(batch, batch_idx) + 1e-3 * (apart + decay)


class Copied(Stranger):
    """The optimizer steps copies of the parameters."""

    def configure_optimizers(self):
        self.copies = [p.detach().clone().requires_grad_() for p in self.parameters()]
        return torch.optim.SGD(self.copies, lr=0.1)


def heard(module, callback, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(module, callback, epochs=1, **options)
    return [str(warning.message) for warning in said]


def test_a_weight_that_is_used_outside_of_forward_is_named_once():
    words = [w for w in heard(Outside(), HEMPCallback()) if "outside of any" in w]
    assert len(words) == 1
    assert "table.weight" in words[0] and "net." not in words[0]


def test_a_weight_that_is_used_in_forward_and_past_it_is_named():
    words = [w for w in heard(TiedByHand(), HEMPCallback()) if "outside of any" in w]
    assert len(words) == 1
    assert "embedding.weight" in words[0] and "net." not in words[0]


def test_penalties_are_no_use():
    assert not [w for w in heard(Penalties(), HEMPCallback()) if "outside of any" in w]


def test_an_epoch_without_a_step_of_the_weights_is_told():
    def told(module):
        return [w for w in heard(module, HEMPCallback()) if "`lambda_entropy` has no effect" in w]

    assert len(told(Copied())) == 1
    assert not told(Stranger())


@pytest.mark.parametrize("options", [{"forward": "continuous"}, {"tensors": ["net.0.weight"]}])
def test_nothing_is_said_where_all_is_as_it_should_be(options):
    module = Outside() if "tensors" in options else stranger()
    assert not [w for w in heard(module, HEMPCallback(**options)) if "outside of any" in w]


def test_no_weight_of_a_usual_network_is_named():
    assert not [w for w in heard(stranger(), HEMPCallback()) if "outside of any" in w]


def test_large_tensors_left_in_float_are_named_before_training(tmp_path):
    module = stranger()
    module.large = nn.Module()
    module.large.register_buffer("table", torch.zeros(512, 512))
    callback = HEMPCallback(path=tmp_path / "net.hemp")
    with pytest.warns(UserWarning, match="large.table") as said, pytest.raises(KeyError):
        module.on_train_start = lambda: {}[0]
        fit(module, callback, epochs=1)
    assert len([w for w in said if "stay in float" in str(w.message)]) == 1


def place(folder, kind):
    """A path in `folder` that no file can have."""
    path = folder / "a"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "in a file":
        path.write_bytes(b"")
    return folder if kind == "folder" else path / "b" / "c" if kind == "in a file" else path


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("folder", IsADirectoryError, "`path` must be a file; found the folder"),
        ("pipe", FileExistsError, "`path` must be a regular file or a new one; found"),
        ("in a file", NotADirectoryError, "`path` must lie in a folder; found .*a is none"),
    ],
)
def test_where_no_file_can_be_is_refused_before_training(tmp_path, kind, error, message):
    module = stranger()
    with pytest.raises(error, match=message):
        fit(module, HEMPCallback(path=place(tmp_path, kind)))
    assert not module.seen


def test_a_size_below_that_of_zeros_is_refused_before_training(tmp_path):
    module, path = stranger(), tmp_path / "net.hemp"
    with pytest.raises(
        ValueError, match=r"bytes that the file takes with all weights at 0"
    ) as said:
        fit(module, HEMPCallback(path=path, target_bytes=100))
    assert not module.seen
    for name in select_tensors(module):
        module.get_parameter(name).data.zero_()
    assert f"least the {hemp_lightning.save(module, path, num_levels=2).file_bytes:,} b" in str(
        said.value
    )


def test_lazy_layers_are_refused_before_training():
    class Lazy(Stranger):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    module = Lazy()
    module.net[4] = nn.LazyLinear(10)
    with pytest.raises(ValueError, match=r"found net.4.weight, net.4.bias of lazy modules"):
        fit(module, HEMPCallback())


def test_two_callbacks_for_one_tensor_are_refused():
    with pytest.raises(ValueError, match=r"found net.0.weight in both"):
        fit(stranger(), HEMPCallback(), HEMPCallback(tensors=["net.0.weight"]))


def test_floats_are_safe_unless_steps_are_asked_for():
    assert HEMPCallback().file == FileOptions()
    assert HEMPCallback().file.float_dtype == "float16"


def test_what_fails_while_writing_leaves_the_weights(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr("hemp_lightning.training.write_file.save", full)
    module = stranger()
    callback = HEMPCallback(num_levels=3, path=tmp_path / "net.hemp")
    with (
        pytest.warns(UserWarning, match="The trained weights are in the module"),
        pytest.raises(OSError, match="the disk is full"),
    ):
        fit(module, callback, epochs=1)
    assert len(module.net[0].weight.unique()) > 3
    assert not callback.path.exists()
