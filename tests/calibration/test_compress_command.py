"""`hemp compress --model`: what it takes, prints and writes, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from hemp_lightning import load, load_into
from hemp_lightning.cli import main
from hemp_lightning.suite.compress_command import read_data

CODE = """
import torch
from torch import nn
def build():
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
def noisy():
    network = build()
    network.register_forward_hook(lambda module, args, found: found + torch.randn_like(found))
    return network
def broken():
    raise OSError("no weights")
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_code.py").write_text(CODE)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "net.pt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(100, 20)).astype(np.float32))
    np.save(tmp_path / "wrong.npy", np.zeros((100, 21), np.float32))
    np.save(tmp_path / "nan.npy", np.full((100, 20), np.nan, np.float32))
    (tmp_path / "a.hemp").write_bytes(b"old")
    return tmp_path


def test_prints_a_table_and_writes_a_report(folder, capsys):
    code = main(
        ["compress", "net.pt", "-o", "a.hemp", "--model", "own_code:build", "--inputs", "x.npy",
         "--max-drop", "0.1", "--time-limit", "1s", "--report", "a.json"]
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    report = json.loads((folder / "a.json").read_text())
    assert report["file_bytes"] == (folder / "a.hemp").stat().st_size
    assert f"{report['file_bytes']:,} bytes" in printed
    assert report["drop"] <= 0.1 and report["held_back"] == 25
    assert [t["name"] for t in report["tensors"] if t["relative_error"]] == ["0.weight", "2.weight"]
    network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    wanted = torch.load(folder / "net.pt")["state_dict"]["0.weight"]
    found = load_into(network, "a.hemp")[0].weight
    error = ((found - wanted).norm() / wanted.norm()).item()
    assert report["tensors"][0]["relative_error"] == pytest.approx(error, rel=1e-3)


def test_without_inputs_it_says_that_quality_is_not_measured(folder, capsys):
    assert main(["compress", "net.pt", "-o", "a.hemp", "--model", "own_code:build"]) == 0
    assert "not measured. Give --inputs" in capsys.readouterr().out


def test_takes_safetensors_as_inputs(folder):
    save_file({"input": torch.randn(40, 20)}, folder / "x.safetensors")
    code = main(
        ["compress", "net.pt", "-o", "a.hemp", "--model", "own_code:build", "--inputs",
         "x.safetensors", "--target-bytes", "1800", "--time-limit", "1"]
    )  # fmt: skip
    assert code == 0
    assert 0.98 * 1800 <= (folder / "a.hemp").stat().st_size <= 1800


def test_takes_shards_in_bfloat16_and_keeps_their_dtype(folder):
    tensors = torch.load(folder / "net.pt")["state_dict"]
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    shards = {"0.weight": "1.safetensors", "0.bias": "1.safetensors"}
    shards |= {"2.weight": "2.safetensors", "2.bias": "2.safetensors"}
    for shard in ("1.safetensors", "2.safetensors"):
        save_file({n: t for n, t in tensors.items() if shards[n] == shard}, folder / shard)
    index = {"metadata": {}, "weight_map": shards}
    (folder / "net.safetensors.index.json").write_text(json.dumps(index))
    code = main(
        ["compress", "net.safetensors.index.json", "-o", "a.hemp", "--model", "own_code:build",
         "--target-bytes", "1500"]
    )  # fmt: skip
    assert code == 0
    found = load(folder / "a.hemp")
    assert 0.98 * 1500 <= (folder / "a.hemp").stat().st_size <= 1500
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    for name, tensor in tensors.items():
        assert (found[name].float() - tensor.float()).norm() < 0.5 * tensor.float().norm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere:build"], "--model must be package.module:build .*nowhere"),
        (["--model", "own_code:nothing"], "--model must be .*nothing"),
        (["--model", "own_code:broken"], "--model must be .*OSError: no weights"),
        (["--model", "own_code:number"], "--model must return a module; found int"),
        (
            ["--model", "resnet19"],
            "--model must be package.module:build, or a name .*found resnet19",
        ),
        (["--model", "lenet300"], "`checkpoint` must fit --model lenet300"),
        (["--inputs", "x.npy"], "--inputs needs --model"),
        (["--model", "own_code:build", "--inputs", "wrong.npy"], "`inputs` must be what .*64, 21"),
        (["--model", "own_code:build", "--inputs", "nan.npy"], "`inputs` must be finite"),
        (["--model", "own_code:noisy", "--inputs", "x.npy"], "must give the same outputs"),
        (["--model", "own_code:build", "--inputs", "y.npy"], "--inputs must exist"),
        (["--model", "own_code:build", "--inputs", "net.pt"], "--inputs must be a folder"),
        (["--model", "own_code:build", "--max-drop", "0.1"], "`max_drop` needs `inputs`"),
        (
            ["--model", "own_code:build", "--inputs", "x.npy", "--time-limit", "soon"],
            "--time-limit must be a time",
        ),
    ],
)
def test_refuses_in_one_line_and_keeps_the_old_file(folder, capsys, arguments, message):
    import re

    before = sorted(entry.name for entry in folder.iterdir())
    assert main(["compress", "net.pt", "-o", "a.hemp", *arguments]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1
    assert (folder / "a.hemp").read_bytes() == b"old"
    after = {entry.name for entry in folder.iterdir()} - {"__pycache__"}
    assert sorted(after) == before


def images(folder, sizes, kind="RGB"):
    """Pictures of random pixels in two folders, in several formats."""
    draw = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        place = folder / "images" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
        suffix = ("png", "bmp", "webp", "jpeg")[number % 4]
        lossless = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(pixels).convert(kind).save(place / f"{number}.{suffix}", **lossless)


@pytest.fixture
def seeing(folder):
    """A small network of images of 8 x 8 pixels, its code and its checkpoint."""
    code = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d({}, 8, 3), "
    code += "nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))\n"
    for name, channels in (("colour", 3), ("grey", 1)):
        (folder / f"{name}_code.py").write_text(code.format(channels))
        layers = [nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        torch.manual_seed(0)
        network = nn.Sequential(*layers, nn.Linear(32, 4))
        torch.save(network.state_dict(), folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize(("name", "kind"), [("colour", "RGB"), ("colour", "L"), ("grey", "RGB")])
def test_takes_a_folder_of_images(seeing, name, kind):
    images(seeing, [(8, 8)] * 20, kind)
    words = ["--model", f"{name}_code:build", "--inputs", "images", "--time-limit", "1"]
    words += ["--max-drop", "0.5", "--report", "a.json"]
    assert main(["compress", f"{name}.pt", "-o", "a.hemp", *words]) == 0
    assert json.loads((seeing / "a.json").read_text())["held_back"] == 5


def test_images_are_normalized_as_imagenet_is(seeing):
    images(seeing, [(8, 6)])
    (batch,) = read_data("images", nn.Conv2d(3, 4, 3))
    pixels = np.asarray(Image.open(seeing / "images" / "class0" / "0.png"), np.float64) / 255
    wanted = (pixels[4, 7] - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert batch.shape == (1, 3, 6, 8)
    assert batch[0, :, 4, 7].numpy() == pytest.approx(wanted, abs=1e-5)


def test_images_of_several_sizes_need_one_that_is_said(seeing, capsys):
    images(seeing, [(8, 8), (12, 8), (8, 16)])
    words = ["compress", "colour.pt", "-o", "a.hemp", "--model", "colour_code:build"]
    words += ["--inputs", "images", "--time-limit", "1"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "8x8 in" in said and "Give --image-size N" in said
    assert (seeing / "a.hemp").read_bytes() == b"old"
    assert main([*words, "--image-size", "8"]) == 0


def test_a_broken_image_is_named(seeing, capsys):
    images(seeing, [(8, 8)] * 3)
    (seeing / "images" / "class0" / "9.png").write_bytes(b"no image")
    words = ["--model", "colour_code:build", "--inputs", "images"]
    assert main(["compress", "colour.pt", "-o", "a.hemp", *words]) == 2
    assert "9.png" in capsys.readouterr().err
