"""Every network of the zoo: sizes counted by hand, forward, error lines, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hemp_lightning.suite.models import MODELS, build, load_checkpoint, read_state_dict

SHARED = Path(__file__).parents[3].parent / "shared" / "data"

# Counted from the papers' tables: weights, biases, BatchNorm scale and shift.
PARAMETERS = {
    "lenet5": 20 * 25 + 20 + 50 * 20 * 25 + 50 + 500 * 800 + 500 + 10 * 500 + 10,
    "lenet300": 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
}


def size_of(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_usual_size(name: str) -> None:
    with torch.device("meta"):
        assert size_of(build(name)) == PARAMETERS[name]


def test_vgg_sizes_by_hand() -> None:
    def features(channels: list[int]) -> int:
        pairs = zip([3, *channels], channels, strict=False)
        return sum(9 * i * o + o + 2 * o for i, o in pairs)

    vgg11 = [64, 128, 256, 256, 512, 512, 512, 512]
    linear = 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    with torch.device("meta"):
        assert size_of(build("vgg11_bn")) == features(vgg11) + linear
        assert size_of(build("vgg11_bn", 10, 3, 32)) == features(vgg11) + 512 * 10 + 10


@pytest.mark.parametrize("name", MODELS)
def test_small_images_forward(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, num_classes=7, in_channels=1, image_size=32).eval()
    with torch.no_grad():
        scores = network(torch.randn(2, 1, 32, 32))
    assert scores.shape == (2, 7)
    assert torch.isfinite(scores).all()
    assert scores.std() > 0  # the two images differ, and so do the scores


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_large_images_keep_torchvisions_stem(name: str) -> None:
    network = build(name, num_classes=5, image_size=96).eval()
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.stride == (2, 2)
    with torch.no_grad():
        assert network(torch.randn(1, 3, 96, 96)).shape == (1, 5)


def test_resnet_shortcut_has_no_parameters_and_pads_with_zeros() -> None:
    from hemp_lightning.suite.models.cifar_resnet import BasicBlock

    block = BasicBlock(16, 32, 2).eval()
    for convolution in (block.conv1, block.conv2):
        torch.nn.init.zeros_(convolution.weight)
    maps = torch.rand(1, 16, 8, 8)
    out = block(maps)
    assert torch.equal(out[:, 8:24], maps[:, :, ::2, ::2])
    assert out[:, :8].abs().sum() == 0 and out[:, 24:].abs().sum() == 0


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"lenet5, lenet300.*found 'alexnet'"):
        build("alexnet")


@pytest.mark.parametrize(("name", "size"), [("lenet5", 8), ("vgg16_bn", 28), ("mobilenet_v2", 16)])
def test_image_too_small(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"`image_size`: {name} takes .* found {size}x{size}"):
        build(name, image_size=size)


def test_smallest_image_is_taken() -> None:
    for name in ("lenet5", "resnet20", "resnet18", "vgg11_bn", "mobilenet_v2"):
        size = MODELS[name].smallest
        network = build(name, 3, 3, size).eval()
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 3)


def test_pretrained_of_our_own_networks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model\.checkpoint`"):
        build("resnet20", pretrained=True)


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56"])
def test_published_checkpoints_load_unchanged(name: str) -> None:
    path = SHARED / "checkpoints" / f"{name}_cifar10.safetensors"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    network = build(name)
    state = load_file(path)
    network.load_state_dict(state, strict=True)
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key])


@pytest.mark.parametrize("kind", ["plain.pt", "lightning.ckpt", "wrapped.pth", "x.safetensors"])
def test_checkpoint_of_each_kind(tmp_path: Path, kind: str) -> None:
    source, target = build("lenet300"), build("lenet300")
    state = source.state_dict()
    path = tmp_path / kind
    if kind == "plain.pt":
        torch.save(state, path)
    elif kind == "lightning.ckpt":
        inside = {f"network.{k}": v for k, v in state.items()} | {"metric.total": torch.zeros(1)}
        torch.save({"state_dict": inside, "epoch": 3}, path)
    elif kind == "wrapped.pth":
        torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    load_checkpoint(target, path)
    for key, value in target.state_dict().items():
        assert torch.equal(value, state[key])


def test_checkpoint_report_names_keys_and_shapes(tmp_path: Path) -> None:
    state = build("lenet300").state_dict()
    del state["fc1.bias"]
    state["fc9.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError) as caught:
        load_checkpoint(build("lenet300", num_classes=5), tmp_path / "a.pt")
    message = str(caught.value)
    assert "1 keys missing in the file (fc1.bias)" in message
    assert "1 keys that the network lacks (fc9.bias)" in message
    assert "fc3.weight is 10x100 in the file, 5x100 in the network" in message
    assert "\n" not in message


def test_checkpoint_that_executes_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="found an object of pathlib"):
        read_state_dict(tmp_path / "a.pt")


def test_checkpoint_missing_or_of_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none at"):
        read_state_dict(tmp_path / "no.pt")
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.pt"):
        read_state_dict(tmp_path / "a.onnx")
