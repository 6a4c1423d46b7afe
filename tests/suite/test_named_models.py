"""Networks by name: of which source they come, and whether checkpoints of that source fit."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hemp_lightning.suite.compress_command import read_network
from hemp_lightning.suite.named_models import named_networks


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"the package {package} is not installed")


def kept(path, network):
    tensors = {name: t.clone() for name, t in network.state_dict().items()}
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_network_of_the_zoo_gets_the_tensors_and_classes_of_its_checkpoint(tmp_path, prefix):
    from hemp_lightning.suite.models import build

    network = build("lenet300", 7)
    tensors = {prefix + name: t.clone() for name, t in network.state_dict().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    found = read_network("lenet300", str(tmp_path / "a.safetensors"), None)
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, tensors[prefix + name])


@needs("torchvision")
@pytest.mark.slow
def test_one_name_of_two_sources_is_that_which_fits(tmp_path):
    import torchvision

    network = torchvision.models.mobilenet_v2(num_classes=5)
    kept(tmp_path / "a.safetensors", network)
    for name in ("mobilenet_v2", "torchvision/mobilenet_v2"):
        found = read_network(name, str(tmp_path / "a.safetensors"), None)
        assert found.state_dict().keys() == network.state_dict().keys()
        assert type(found) is type(network) or name == "mobilenet_v2"
    with pytest.raises(ValueError, match="found timm/mobilenet_v2"):
        read_network("timm/mobilenet_v2", str(tmp_path / "a.safetensors"), None)


@needs("timm")
@pytest.mark.slow
def test_takes_models_of_timm(tmp_path):
    import timm

    network = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    tensors = kept(tmp_path / "a.safetensors", network)
    found = read_network("vit_tiny_patch16_224", str(tmp_path / "a.safetensors"), None)
    assert torch.equal(found.head.weight, tensors["head.weight"])


@needs("transformers")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["distilbert", "DistilBertForMaskedLM"])
def test_takes_models_of_transformers_with_the_config_beside_them(tmp_path, name):
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=99, dim=32, n_layers=1, n_heads=2, hidden_dim=64
    )
    network = transformers.DistilBertForMaskedLM(config)
    network.save_pretrained(tmp_path)  # the tied head is there once
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["architectures"] == ["DistilBertForMaskedLM"]
    found = read_network(name, str(tmp_path / "model.safetensors"), None).eval()
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        assert torch.equal(found(tokens).logits, network.eval()(tokens).logits)


def test_an_unknown_name_is_told_once(tmp_path):
    with pytest.raises(ValueError, match="found resnet19") as said:
        list(named_networks("resnet19", {"a": nn.Linear(2, 2).weight}, tmp_path))
    assert "\n" not in str(said.value)
