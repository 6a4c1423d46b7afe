"""The command `hemp`, called as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from fractions import Fraction

import pytest
import safetensors.torch
import torch
from torch import nn

from hemp_lightning import cli, load, save
from hemp_lightning.file import safetensors_files
from hemp_lightning.file.checkpoints import read_checkpoint
from hemp_lightning.file.format.storages import EXACT
from hemp_lightning.file.state import Deferred
from hemp_reader.reading import inspect


def hemp(capsys, *arguments):
    """Exit code, standard output and standard error of a call."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        code = error.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8, bias=False))
    state = {**model.state_dict(), "tied": model[2].weight.detach()}
    torch.save(state, "net.pt")
    torch.save({"state_dict": state, "epoch": 3}, "net.ckpt")
    safetensors.torch.save_file({name: t.clone() for name, t in state.items()}, "net.safetensors")
    return tmp_path


@pytest.mark.parametrize("source", ["net.pt", "net.ckpt", "net.safetensors"])
@pytest.mark.parametrize("target", ["back.pth", "back.safetensors"])
def test_there_and_back(folder, capsys, source, target):
    code, out, err = hemp(capsys, "compress", source, "-o", "net.hemp", "--num-levels", 4)
    assert code == 0 and "the levels are far from the weights of 0.weight" in err
    assert ("only what is under `state_dict` is read, not epoch" in err) == source.endswith("ckpt")
    assert "error" in out.splitlines()[0]
    sizes = inspect("net.hemp")
    assert f"{sizes.file_bytes:,} bytes" in out and f"{sizes.float_bytes:,} bytes" in out
    code, out, err = hemp(capsys, "decompress", "net.hemp", "-o", target)
    assert (code, err) == (0, "") and f"{os.path.getsize(target):,} bytes" in out
    read = safetensors.torch.load_file if target.endswith("s") else torch.load
    found, wanted = read(target), load("net.hemp")
    assert set(found) == set(wanted) == set(torch.load("net.pt"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert sorted(os.listdir()) == sorted(
        ["net.pt", "net.ckpt", "net.safetensors", "net.hemp", target]
    )


def test_options_arrive(folder, capsys):
    options = "--quantizer uniform --coder tuples --order 3 --scan input --float-dtype float32"
    code, _, _ = hemp(
        capsys, "compress", "net.pt", "-o", "a.hemp", *options.split(), "--tensors", "2.*", "0.bias"
    )
    tensors = {tensor.name: tensor for tensor in inspect("a.hemp", order=3).tensors}
    assert code == 0
    assert [n for n, t in tensors.items() if t.num_levels] == ["0.bias", "2.weight", "tied"]
    assert tensors["2.weight"].coder == "tuples" and tensors["0.weight"].dtype == "float32"
    payload_options = 2 * 4 + 2  # order 3, third scan
    assert bytes([payload_options]) in (folder / "a.hemp").read_bytes()


def test_table(folder, capsys):
    hemp(capsys, "compress", "net.pt", "-o", "net.hemp", "--num-levels", 4)
    code, out, err = hemp(capsys, "inspect", "net.hemp")
    summary = inspect("net.hemp")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    columns = "tensor shape dtype transform coder levels entropy rate bytes share"
    assert lines[0].split() == columns.split()
    rows = {line.split()[0]: line.split() for line in lines[2:-4]}
    for tensor in summary.tensors:
        row = rows[tensor.name]
        assert row[1] == ("x".join(map(str, tensor.shape)) or "scalar")
        assert row[-2] == f"{tensor.bytes:,}"
        if tensor.num_levels:
            assert row[-5:-3] == [str(tensor.num_levels), f"{tensor.entropy_bits_per_weight:.3f}"]
    assert "alias of 2.weight" in out
    assert len({len(line) for line in lines[:-4]}) == 1  # aligned
    cells = [int(row[-2].replace(",", "")) for row in rows.values()]
    assert sum(cells) == summary.file_bytes
    assert lines[-2].split()[:3] == ["file", f"{summary.file_bytes:,}", "bytes"]


def test_names_cannot_write_to_the_terminal(folder, capsys):
    torch.save({"a\x1b[2Jb\n": torch.zeros(2)}, "evil.pt")
    hemp(capsys, "compress", "evil.pt", "-o", "evil.hemp")
    _, out, _ = hemp(capsys, "inspect", "evil.hemp")
    assert "\x1b" not in out and r"a\x1b[2Jb\n" in out


def test_verify(folder, capsys):
    hemp(capsys, "compress", "net.pt", "-o", "net.hemp")
    size = os.path.getsize("net.hemp")
    assert hemp(capsys, "verify", "net.hemp") == (0, f"net.hemp: whole, {size:,} bytes\n", "")
    data = bytearray((folder / "net.hemp").read_bytes())
    data[size // 2] ^= 1
    (folder / "net.hemp").write_bytes(data)
    code, out, err = hemp(capsys, "verify", "net.hemp")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("hemp: net.hemp: byte ") and "expected the checksum" in err


def test_verify_tells_of_each_file(folder, capsys):
    for name in ("a", "b", "c"):
        hemp(capsys, "compress", "net.pt", "-o", f"{name}.hemp")
    data = (folder / "a.hemp").read_bytes()
    whole = [f"{name}.hemp: whole, {len(data):,} bytes\n" for name in ("a", "c")]
    (folder / "b.hemp").write_bytes(data[:-1])
    code, out, err = hemp(capsys, "verify", "a.hemp", "b.hemp", "c.hemp")
    assert (code, out) == (1, "".join(whole)) and err.startswith("hemp: b.hemp: byte ")
    assert hemp(capsys, "verify", "a.hemp", "c.hemp") == (0, "".join(whole), "")


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("compress none.pt -o x.hemp", 2, "hemp: No such file or directory: none.pt"),
        ("compress net.txt -o x.hemp", 2, "CHECKPOINT must end in .pt, .pth, .ckpt, .bin"),
        ("compress net.pt -o no/x.hemp", 2, "`path` must lie in a folder that exists"),
        ("compress net.pt -o x.hemp --num-levels 1", 2, "`num_levels` must be from 2 to 65536"),
        ("compress net.pt -o x.hemp --order 0", 2, "`order` must be at least 1; found 0"),
        ("compress net.pt -o x.hemp --tensors 9.*", 2, "'9.*', which matches none of 0."),
        ("compress net.pt -o x.hemp --coder zip", 2, "invalid choice: 'zip'"),
        ("compress broken.pt -o x.hemp", 1, "hemp: broken.pt must be a whole .pt file"),
        ("compress broken.safetensors -o x.hemp", 1, "must be a whole .safetensors file"),
        (
            "compress evil.pt -o x.hemp",
            1,
            "evil.pt must hold tensors and plain values only; found an object of fractions.",
        ),
        ("compress list.pt -o x.hemp", 1, "list.pt must hold a state_dict"),
        ("compress mixed.pt -o x.hemp --key epoch", 1, "found a int"),
        (
            "compress nan.pt -o x.hemp --tensors w",
            2,
            "`w` must be finite to be quantized; found NaN",
        ),
        ("compress net.pt -o net.pt", 2, "--output must be another file than CHECKPOINT"),
        ("compress net.pt -o a.PTH", 2, "--output must not end like a float checkpoint"),
        ("compress net.pt -o pipe", 2, "`path` must be a regular file or a new one; found pipe"),
        ("compress net.pt -o x.hemp --tensors !nothing", 2, "'nothing', which matches none of"),
        ("decompress net.pt -o y.pt", 1, "net.pt: byte 0: expected a .hemp file"),
        ("decompress good.hemp -o y.zip", 2, "FILE must end in .pt, .pth, .ckpt, .bin"),
        ("decompress good.hemp -o y.pt --max-bytes 8", 1, "of at most `max_bytes`=8 bytes, found"),
        ("decompress complex.hemp -o y.safetensors", 2, "a .safetensors file cannot hold this"),
        ("inspect none.hemp", 2, "hemp: No such file or directory: none.hemp"),
        ("inspect net.pt", 1, "net.pt: byte 0: expected a .hemp file"),
        ("verify .", 2, "hemp: Is a directory: ."),
        ("squash", 2, "invalid choice: 'squash'"),
        ("", 2, "COMMAND"),
    ],
)
def test_what_users_do_wrong(folder, capsys, call, code, message):
    (folder / "net.txt").write_text("x")
    (folder / "broken.pt").write_bytes((folder / "net.pt").read_bytes()[:-200])
    (folder / "broken.safetensors").write_bytes(b"\xff" * 9)
    torch.save(Fraction(1, 3), "evil.pt")
    torch.save([torch.zeros(2)], "list.pt")
    torch.save({"w": torch.zeros(2), "epoch": 3}, "mixed.pt")
    torch.save({"w": torch.tensor([float("nan")])}, "nan.pt")
    torch.save({"w": torch.zeros(3, dtype=torch.complex128)}, "complex.pt")
    hemp(capsys, "compress", "net.pt", "-o", "good.hemp")
    hemp(capsys, "compress", "complex.pt", "-o", "complex.hemp")
    os.mkfifo("pipe")
    before = sorted(os.listdir())
    found, out, err = hemp(capsys, *call.split())
    assert found == code and message in err and out == ""
    assert "Traceback" not in err
    if "usage:" not in err:
        assert err.startswith("hemp: ") and err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_interrupted(folder, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "verify", interrupt)
    assert hemp(capsys, "verify", "net.hemp") == (130, "", "hemp: interrupted\n")


def test_report_gets_its_arguments(capsys, monkeypatch):
    seen = []
    module = Namespace(main=lambda arguments: seen.append(arguments) or 3)
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: module)
    assert hemp(capsys, "report", "outputs", "--help")[0] == 3
    assert seen == [["outputs", "--help"]]

    def missing(_):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    code, _, err = hemp(capsys, "report")
    assert code == 2 and err == (
        "hemp: `hemp report` needs the package 'matplotlib'; install hemp-lightning[suite]\n"
    )


def test_as_a_program(folder):
    done = subprocess.run(
        [sys.executable, "-m", "hemp_lightning.cli", "verify", "net.pt"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1 and done.stderr.startswith("hemp: net.pt: byte 0: expected")


@pytest.mark.parametrize("threads", [1, 3])
def test_any_dtype_goes_through_safetensors(tmp_path, capsys, threads):
    state = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in EXACT
        if dtype not in (torch.complex128, torch.complex32)
    }
    state |= {"größe\n": torch.tensor(2.5), "none": torch.empty(0, 3), "tied": state["torch.bool"]}
    source, middle, target = (tmp_path / name for name in ("a.pt", "b.hemp", "c.safetensors"))
    torch.save(state, source)
    arguments = ("--tensors", "torch.float64", "--num-levels", 6, "--threads", threads)
    assert hemp(capsys, "compress", source, "-o", middle, *arguments)[0] == 0
    assert hemp(capsys, "decompress", middle, "-o", target, "--threads", threads)[0] == 0
    found = safetensors.torch.load_file(target)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].equal(tensor), name
    scanned = read_checkpoint(target).tensors
    assert all(scanned[name].read().equal(found[name]) for name in found)
    # what is written from a file read tensor by tensor is what is written from memory
    again, from_memory = tmp_path / "d.hemp", tmp_path / "e.hemp"
    for other, what in ((again, scanned), (from_memory, {n: found[n] for n in scanned})):
        save(what, other, threads=threads)
    assert again.read_bytes() == from_memory.read_bytes()


def test_a_checkpoint_that_changes_while_it_is_read(folder):
    scanned = read_checkpoint("net.safetensors").tensors
    data = (folder / "net.safetensors").read_bytes()
    (folder / "net.safetensors").write_bytes(data[:-300])
    with pytest.raises(OSError, match=r"net.safetensors ends too early: it was changed"):
        save(scanned, "x.hemp")
    other = Deferred((2, 3), torch.float32, lambda: torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"tensor `w` must be the torch.float32 of shape \(2, 3\)"):
        save({"w": other}, "x.hemp")
    with pytest.raises(ValueError, match=r"tensor `w` has dtype torch.float8_e4m3fnuz, which a"):
        save({"w": Deferred((2,), torch.float8_e4m3fnuz, lambda: torch.zeros(2))}, "x.hemp")
    assert not os.path.exists("x.hemp")


def test_a_name_that_safetensors_keeps_for_itself(tmp_path, capsys):
    save({"__metadata__": torch.zeros(2)}, tmp_path / "m.hemp")
    code, _, err = hemp(capsys, "decompress", tmp_path / "m.hemp", "-o", tmp_path / "m.safetensors")
    assert code == 2 and "a tensor of the name __metadata__" in err
    assert os.listdir(tmp_path) == ["m.hemp"]


def test_a_dtype_that_torch_has_not(tmp_path, capsys):
    header = b'{"w":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}'
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    code, _, err = hemp(capsys, "compress", path, "-o", tmp_path / "w.hemp")
    assert code == 1 and "w.safetensors must be a whole .safetensors file" in err


def test_safetensors_are_little_endian_everywhere(monkeypatch):
    monkeypatch.setattr(safetensors_files, "sys", Namespace(byteorder="big"))
    words = torch.tensor([[0x0102], [0x0304]], dtype=torch.int16)
    entries = words.reshape(-1).view(torch.uint8)
    swapped = safetensors_files._swapped(entries, torch.int16)
    assert swapped.tolist() == [1, 2, 3, 4]
    complex_entries = torch.tensor([1 + 2j]).view(torch.uint8)
    swapped = safetensors_files._swapped(complex_entries, torch.complex64)
    assert swapped.tolist() == [0x3F, 0x80, 0, 0, 0x40, 0, 0, 0]  # each part by itself


def test_a_tensor_is_left_out_by_name(folder, capsys):
    code, _, _ = hemp(capsys, "compress", "net.pt", "-o", "x.hemp", "--tensors", "!0.*")
    quantized = [tensor.name for tensor in inspect("x.hemp").tensors if tensor.num_levels]
    assert code == 0 and "0.weight" not in quantized
    assert torch.equal(load("x.hemp")["0.weight"], torch.load("net.pt")["0.weight"].half().float())


def test_safetensors_say_that_they_are_of_torch(folder, capsys):
    hemp(capsys, "compress", "net.safetensors", "-o", "x.hemp")
    hemp(capsys, "decompress", "x.hemp", "-o", "y.safetensors")
    with safetensors.safe_open("y.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    said = {"format": "pt", "license": "MIT"}
    safetensors.torch.save_file({"w": torch.randn(8, 8)}, "a.safetensors", metadata=said)
    hemp(capsys, "compress", "a.safetensors", "-o", "a.hemp")
    hemp(capsys, "decompress", "a.hemp", "-o", "b.safetensors")
    with safetensors.safe_open("b.safetensors", "pt") as file:
        assert file.metadata() == said


def test_a_traceback_is_shown_on_request(folder, capsys, monkeypatch):
    call = ("compress", "net.pt", "-o", "x.hemp", "--order", 0)
    assert hemp(capsys, *call)[0] == 2
    monkeypatch.setenv("HEMP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="`order` must be at least 1"):
        hemp(capsys, *call)
