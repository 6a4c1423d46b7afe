"""NNCodec: folding by what networks compute, a stream back by its error, a missing package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hemp_lightning.suite.baselines import NNCodec
from hemp_lightning.suite.baselines.nncodec import folded_norms
from hemp_lightning.suite.models import build

installed = pytest.mark.skipif(
    importlib.util.find_spec("nncodec") is None, reason="the package nncodec is not installed"
)


def with_statistics(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked.fill_(7)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50", "vgg11_bn", "mobilenet_v2"])
def test_a_folded_network_computes_the_same(name: str) -> None:
    network = with_statistics(build(name, 10, 3, 32))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    coded, constants = folded_norms(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    fresh = build(name, 10, 3, 32)
    assert folded_norms(fresh)[1].keys() == constants.keys()
    fresh.load_state_dict({**coded, **folded_norms(fresh)[1]})  # a decoder knows no more than this
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected, found = network(images), fresh.eval()(images)
    # in units of the scores: fifty layers of rounding, and nothing worse
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@installed
@pytest.mark.parametrize("use_dq", [False, True])
def test_a_stream_comes_back_within_its_step(tmp_path: Path, use_dq: bool) -> None:
    network = build("lenet300")
    sizes, errors = [], []
    for qp in (-40, -32):
        callback = NNCodec(tmp_path / "model.nnc", qp=qp, use_dq=use_dq)
        callback.on_fit_end(SimpleNamespace(is_global_zero=True), network)
        fresh = callback.load_into(build("lenet300"), callback.path)
        sizes.append(callback.path.stat().st_size)
        error = (fresh.fc1.weight - network.fc1.weight).detach().abs().max()
        errors.append(float(error) / 2 ** (qp / 4))  # in steps of the standard's quantizer
    assert sizes[0] > sizes[1] > 100
    assert max(errors) < 6  # `opt_qp` widens the step, rate-distortion optimization skips levels


@pytest.mark.skipif(importlib.util.find_spec("nncodec") is not None, reason="nncodec is installed")
def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        NNCodec("model.nnc")


@installed
def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"`quantization\.qp`"):
        NNCodec("model.nnc", qp=5)
