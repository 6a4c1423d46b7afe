"""What is quantized: alike of a module and of its state_dict; what is not finite is held."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from hemp_lightning import load, load_into, save
from hemp_lightning.file.choose import left_in_float
from hemp_lightning.file.save import size_of
from hemp_lightning.file.state import check_state


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def pruned():
    layers = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 4))
    prune.l1_unstructured(layers[0], "weight", 0.5)
    return layers


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: nn.LSTM(8, 16, proj_size=4), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
        (lambda: nn.GRUCell(8, 16), ["weight_ih", "weight_hh"]),
        (lambda: nn.MultiheadAttention(16, 2), ["in_proj_weight", "out_proj.weight"]),
        (
            lambda: nn.MultiheadAttention(16, 2, kdim=8, vdim=8),
            ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        ),
        (lambda: nn.Bilinear(4, 5, 6), ["weight"]),
        (lambda: weight_norm(nn.Linear(16, 16)), ["parametrizations.weight.original1"]),
        (lambda: spectral_norm(nn.Linear(16, 16)), ["parametrizations.weight.original"]),
        (lambda: nn.utils.weight_norm(nn.Linear(16, 16)), ["weight_v"]),
        (lambda: nn.utils.spectral_norm(nn.Linear(16, 16)), ["weight_orig"]),
        (pruned, ["0.weight_orig", "0.weight_mask", "1.weight"]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_module_and_its_state_dict_choose_alike(tmp_path, build, names):
    module = build()
    for what in (module, module.state_dict()):
        summary = save(what, tmp_path / "x.hemp", num_levels=4, transform="none")
        assert {t.name for t in summary.tensors if t.num_levels} == set(names)
    fresh = load_into(build(), tmp_path / "x.hemp")
    assert len(fresh.state_dict()[names[0]].unique()) <= 4


def test_zeros_of_a_pruned_module_stay_zeros(tmp_path):
    module = pruned()
    save(module, tmp_path / "x.hemp")
    state, wanted = load(tmp_path / "x.hemp"), module.state_dict()
    assert torch.equal(state["0.weight_mask"], wanted["0.weight_mask"])
    weight = wanted["0.weight_orig"] * wanted["0.weight_mask"]
    assert torch.allclose(state["0.weight_orig"], weight, atol=0.02)
    assert not state["0.weight_orig"][wanted["0.weight_mask"] == 0].any()


@pytest.mark.parametrize("value", [-math.inf, math.nan])
@pytest.mark.filterwarnings("ignore:tensor `mask` has NaN")
def test_what_is_not_finite_is_held_exactly(tmp_path, value):
    mask = torch.randn(8, 8)
    mask[0, 1] = value
    state = {"a": torch.randn(64, 64), "mask": mask}
    save(state, tmp_path / "x.hemp")
    assert torch.equal(load(tmp_path / "x.hemp")["mask"].nan_to_num(), mask.nan_to_num())
    with pytest.raises(ValueError, match="tensor `mask` must be finite to be quantized; found"):
        save(state, tmp_path / "y.hemp", tensors=["weights", "mask"])
    assert not (tmp_path / "y.hemp").exists()


def test_a_tensor_is_left_out_by_name(tmp_path):
    state = {"a": torch.randn(64, 64), "b.c": torch.randn(64, 64), "b.d": torch.randn(64, 64)}
    for tensors, names in (
        (["*", "!a"], {"b.c", "b.d"}),
        ("!b.*", {"a"}),
        (["weights", "!b.c"], {"a", "b.d"}),
    ):
        summary = save(state, tmp_path / "x.hemp", num_levels=16, tensors=tensors)
        assert {t.name for t in summary.tensors if t.num_levels} == names


def test_large_tensors_left_in_float_are_named(tmp_path):
    module = nn.Linear(32, 32)
    module.register_buffer("table", torch.randn(64, 64))
    with pytest.warns(UserWarning, match=r"table \(16,384 bytes in float32\)"):
        save(module, tmp_path / "x.hemp")
    assert left_in_float(module, {"weight"}) == {"table": 16384}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(nn.Linear(32, 32), tmp_path / "x.hemp")


def test_large_errors_are_told(tmp_path):
    with pytest.warns(UserWarning, match=r"far from the weights of weight \(\d\d%\)"):
        save(nn.Linear(32, 32), tmp_path / "x.hemp", num_levels=3)


@pytest.mark.parametrize("options", [{}, {"num_levels": 16}, {"codebooks": {}}])
def test_the_error_and_the_size_are_those_of_the_file(tmp_path, options):
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.LSTM(16, 32))
    summary, sized = save(module, tmp_path / "x.hemp", **options), size_of(module, **options)
    assert sized.file_bytes == (tmp_path / "x.hemp").stat().st_size == summary.file_bytes
    assert sized.tensors == summary.tensors
    found = load(tmp_path / "x.hemp")
    for tensor in summary.tensors:
        wanted = module.state_dict()[tensor.name].double()
        error = (wanted - found[tensor.name].double()).norm() / wanted.norm().clamp_min(1e-30)
        assert tensor.relative_error == pytest.approx(float(error), rel=1e-3, abs=1e-9)
        assert options or error < 0.005


def test_biases_of_recurrent_layers_take_no_steps(tmp_path):
    module = nn.LSTM(8, 16)
    save(module, tmp_path / "x.hemp", float_dtype="steps")
    wanted = module.bias_ih_l0.detach().half().float()
    assert torch.equal(load(tmp_path / "x.hemp")["bias_ih_l0"], wanted)


def test_what_no_file_holds_is_refused_before_training():
    class Extra(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(TypeError, match=r"`0\._extra_state` must .* found dict, the extra"):
        check_state(nn.Sequential(Extra()))
    check_state(nn.Linear(2, 2))
