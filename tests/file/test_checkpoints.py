"""The reader of checkpoints: nested forms, what is left out, what is refused, prefixes."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from hemp_lightning import save
from hemp_lightning.file.checkpoints import (
    CheckpointError,
    read_checkpoint,
    without_prefix,
)

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
OTHER = {"a.weight": torch.zeros(2, 3)}


def equal(found, wanted):
    return list(found) == list(wanted) and all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".tar", ".PTH"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"net": STATE, "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
        {"params_ema": STATE, "best": np.float64(0.9), "args": argparse.Namespace(lr=0.1)},
        {"checkpoint": {"model": STATE}, "epoch": 1},
        {"anything": STATE},
        {**STATE, "epoch": 3},
    ],
)
def test_usual_forms(tmp_path, suffix, content):
    torch.save(content, tmp_path / f"x{suffix}")
    found = read_checkpoint(tmp_path / f"x{suffix}")
    assert equal(found.tensors, STATE)
    for name in ("epoch", "optimizer", "best"):
        assert any(name in note for note in found.notes) == (name in content)


def test_a_key_names_the_tensors(tmp_path):
    content = {"model": STATE, "averages": {"model.ema": OTHER}}
    torch.save(content, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert equal(found.tensors, STATE) and "averages" in found.notes[0]
    assert equal(read_checkpoint(tmp_path / "x.pt", "averages.model.ema").tensors, OTHER)
    with pytest.raises(CheckpointError, match="must have `emma`; found model, averages"):
        read_checkpoint(tmp_path / "x.pt", "emma")


def test_several_files(tmp_path):
    for name in STATE:
        safetensors.torch.save_file({name: STATE[name]}, tmp_path / f"{name}.safetensors")
    places = {name: f"{name}.safetensors" for name in STATE}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": places}))
    found = read_checkpoint(path).tensors
    assert equal({name: deferred.read() for name, deferred in found.items()}, STATE)
    path.write_text(json.dumps({"weight_map": {"a.bias": "../x.safetensors"}}))
    with pytest.raises(CheckpointError, match="must name files beside it"):
        read_checkpoint(path)


def test_a_hemp_file(tmp_path):
    save(STATE, tmp_path / "x.hemp", codebooks={})
    assert equal(read_checkpoint(tmp_path / "x.hemp").tensors, STATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": STATE, "lr": Fraction(1, 3)}, "found an object of fractions.Fraction"),
        ({"epoch": 3}, r"found a dict with epoch \(int\). Name the place"),
        ([1, 2], "found a list$"),
        ({"left": STATE, "right": OTHER}, r"found a dict with left \(dict\), right \(dict\)"),
    ],
)
def test_what_is_in_the_way_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.pt")


def test_torchscript_is_told(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match="found a TorchScript archive"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["weight", "bias"], ""),
        (["net.weight", "net.bias", "loss.scale"], "net."),
        (["module._orig_mod.weight", "module._orig_mod.bias"], "module._orig_mod."),
        (["net.weight", "loss.bias"], ""),
        (["weight", "bias", "net.weight", "net.bias"], ""),
    ],
)
def test_the_prefix_that_all_tensors_share(names, prefix):
    assert without_prefix(names, ["weight", "bias", "num_batches_tracked"]) == prefix


def test_two_networks_in_a_checkpoint_are_refused():
    names = ["student.weight", "teacher.weight"]
    with pytest.raises(ValueError, match=r"under each of student\., teacher\."):
        without_prefix(names, ["weight"])
    assert without_prefix(names, ["weight"], "teacher") == "teacher."
    with pytest.raises(ValueError, match=r"found 'net', and the names student\.weight"):
        without_prefix(names, ["weight"], "net")
