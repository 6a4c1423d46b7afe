"""`python -m hemp_reader`: what it writes is read back by the libraries of those forms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import hemp_lightning
import hemp_reader
from hemp_reader.__main__ import main

DATA = Path(__file__).parents[1] / "data"
ALL = DATA / "version1_dtypes.hemp"
SOME = DATA / "version1_lenet.hemp"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A file with every dtype of .safetensors files, and tied, empty and scalar tensors."""
    state = {
        name: tensor
        for name, tensor in hemp_lightning.load(ALL).items()
        if tensor.dtype not in (torch.complex32, torch.complex128)
    }
    hemp_lightning.save(state, tmp_path / "mixed.hemp", codebooks={}, metadata={"made": "by us"})
    return tmp_path / "mixed.hemp"


def test_safetensors_hold_every_bit(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = mixed.with_suffix(".safetensors")
    assert main([str(mixed), "-o", str(output)]) == 0
    wanted = hemp_lightning.load(mixed)
    assert capsys.readouterr().out.startswith(f"{output}: {len(wanted)} tensors, ")
    found = safetensors.torch.load_file(output)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        words = (t.reshape(-1).view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(*words), name
    with safetensors.safe_open(output, "pt") as file:
        assert file.metadata() == {"format": "pt", "made": "by us"}


def test_npz_holds_the_arrays(mixed: Path) -> None:
    output = mixed.with_suffix(".npz")
    assert main([str(mixed), "-o", str(output)]) == 0
    wanted = hemp_reader.load(mixed)
    with np.load(output, allow_pickle=False) as found:
        assert set(found) == set(wanted)
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()


def test_alone_it_lists_the_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SOME)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["conv1.weight", "4x1x3x3", "float32", "tuples", "23", "bytes"]
    assert lines[-1].startswith(f"{SOME}: 7 tensors, ")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("x.pt", "`output` must end in one of .npz, .safetensors, .onnx; found "),
        ("none/x.npz", "`path` must lie in a folder that exists; found "),
        ("folder.npz", "`path` must be a file; found the folder "),
        ("pipe.npz", "`path` must be a regular file or a new one; found "),
        ("same.npz", "`output` must be another file than the input; found "),
        ("dtype.safetensors", "a .safetensors file cannot hold this: tensor `größe.complex"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "same.npz"
    source.write_bytes(ALL.read_bytes())
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    before = sorted(tmp_path.iterdir())
    assert main([str(source), "-o", str(tmp_path / output)]) == 2
    found = capsys.readouterr()
    assert not found.out and found.err.startswith("hemp_reader: ") and message in found.err
    assert sorted(tmp_path.iterdir()) == before
    assert source.read_bytes() == ALL.read_bytes()


def test_an_old_output_survives_a_broken_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = bytearray(SOME.read_bytes())
    broken[-1] ^= 1
    (tmp_path / "x.hemp").write_bytes(broken)
    (tmp_path / "x.npz").write_bytes(b"old")
    assert main([str(tmp_path / "x.hemp"), "-o", str(tmp_path / "x.npz")]) == 1
    assert "expected the checksum" in capsys.readouterr().err
    assert (tmp_path / "x.npz").read_bytes() == b"old"
    assert main([str(tmp_path / "none.hemp")]) == 2
    assert "No such file" in capsys.readouterr().err
