"""`lossless=True`: every bit of every tensor, whatever it means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hemp_reader
from hemp_lightning import cli, load, save
from hemp_lightning.file.format.storages import EXACT


def drawn(dtype: torch.dtype, count: int, seed: int) -> torch.Tensor:
    """Bits of all kinds: infinity, -0 and NaN with whatever behind it."""
    generator = np.random.default_rng(seed)
    high = 2 if dtype == torch.bool else 256
    data = generator.integers(0, high, count * dtype.itemsize).astype(np.uint8)
    return torch.from_numpy(data).view(dtype)


@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:tensor .* has NaN")
def test_every_bit_of_every_dtype_comes_back(tmp_path: Path) -> None:
    state = {str(d): drawn(d, 300, i).reshape(3, 100) for i, d in enumerate(EXACT)}
    state["zeros"] = torch.tensor([[0.0, -0.0], [float("inf"), -float("nan")]])
    state["w_orig"] = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    state["w_mask"] = torch.ones(8, 8)
    state["w_mask"][0] = -0.0
    save(state, tmp_path / "x.hemp", lossless=True, num_levels=4, float_dtype="float16")
    found = load(tmp_path / "x.hemp")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        words = (t.reshape(-1).view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(*words), name
    assert list(hemp_reader.load(tmp_path / "x.hemp")) == list(state)


def test_weights_become_smaller_all_the_same(tmp_path: Path) -> None:
    weights = 0.05 * torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    for dtype, share in ((torch.float32, 0.9), (torch.bfloat16, 0.75)):
        summary = save({"w": weights.to(dtype)}, tmp_path / "x.hemp", lossless=True)
        assert summary.file_bytes < share * weights.numel() * dtype.itemsize
        assert torch.equal(load(tmp_path / "x.hemp")["w"], weights.to(dtype))


def test_the_command_keeps_every_bit(tmp_path: Path) -> None:
    path, output = tmp_path / "x.pt", tmp_path / "x.hemp"
    state = {"w": torch.randn(40, 30, generator=torch.Generator().manual_seed(0))}
    torch.save(state, path)
    assert cli.main(["compress", str(path), "-o", str(output), "--lossless"]) == 0
    assert torch.equal(load(output)["w"], state["w"])


def test_the_command_writes_updates_and_applies_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, update, new = (str(tmp_path / f"{name}.hemp") for name in ("old", "update", "new"))
    state = {"a": torch.randn(40, 30), "b": torch.randn(50, 60)}
    for name in ("old", "now"):
        torch.save(state, tmp_path / f"{name}.pt")
        state["a"] = state["a"] + 0.5
    assert cli.main(["compress", str(tmp_path / "old.pt"), "-o", old]) == 0
    assert cli.main(["compress", str(tmp_path / "now.pt"), "-o", update, "--base", old]) == 0
    assert cli.main(["inspect", update]) == cli.main(["verify", update]) == 1
    assert "found no base" in capsys.readouterr().err
    assert cli.main(["inspect", update, "--base", old]) == 0
    assert cli.main(["verify", update, "--base", old]) == 0
    assert cli.main(["apply", old, update, "-o", new]) == 0
    assert cli.main(["decompress", update, "--base", old, "-o", str(tmp_path / "x.pt")]) == 0
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    whole = load(new)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert torch.equal(whole["b"], load(old)["b"])
    assert not torch.equal(whole["a"], load(old)["a"])
