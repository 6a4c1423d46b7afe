"""What save and load refuse, and that a file is never half-written."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hemp_lightning import HempFileError, load, load_into, save
from hemp_lightning.file import save as saving
from hemp_lightning.file import write as writing
from hemp_reader.coding.tuples.decoder import TuplesDecoder
from hemp_reader.format import files
from hemp_reader.reading import inspect


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


def same(found, wanted):
    """Equal in dtype, shape and every bit."""
    wanted = wanted.detach().resolve_conj().contiguous()
    return (
        found.dtype == wanted.dtype
        and found.shape == wanted.shape
        and found.reshape(-1).view(torch.uint8).tolist()
        == wanted.reshape(-1).view(torch.uint8).tolist()
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_levels": 1}, ValueError, "`num_levels` must be from 2 to 65536; found 1"),
        ({"quantizer": "x"}, ValueError, "`quantizer` must be one of .*; found 'x'"),
        ({"coder": "x"}, ValueError, "`coder` must be one of .*; found 'x'"),
        ({"order": 0}, ValueError, "`order` must be at least 1; found 0"),
        ({"order": 0, "coder": "lzma"}, ValueError, "`order` must be at least 1; found 0"),
        ({"scan": "x"}, ValueError, "`scan` must be one of .*; found 'x'"),
        ({"float_dtype": "int8"}, ValueError, "`float_dtype` must be one of .*; found 'int8'"),
        (
            {"tensors": "x*"},
            ValueError,
            "`tensors` must be .*; found 'x\\*', .* none of w",
        ),
        ({"codebooks": {"v": None}}, ValueError, "`codebooks` must have names of the .*'v'.* of w"),
        ({"codebooks": {"w": None}}, TypeError, r"`codebooks\['w'\]` must be a Codebook; found"),
        ({"codebooks": {"i": None}}, ValueError, "must be for floating .*'i' of dtype torch.int64"),
    ],
)
def test_arguments(tmp_path, arguments, error, message):
    state = {"w": torch.randn(4, 4), "i": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(error, match=message):
        save(state, tmp_path / "x.hemp", **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (3, TypeError, "`model_or_state_dict` must be a module or a mapping .*; found int"),
        ({3: torch.zeros(1)}, TypeError, "keys of a state_dict must be strings; found 3"),
        ({"x": "text"}, TypeError, "entry `x` must be a tensor; found str"),
        ({"\ud800": torch.zeros(1)}, ValueError, "must be valid Unicode; found a lone surrogate"),
        ({"x" * 5000: torch.zeros(1)}, ValueError, "must have at most 4096 bytes; found 5000"),
        ({"x": torch.zeros(1, device="meta")}, ValueError, "`x` must have values; found .* meta"),
        ({"x": torch.zeros(2, 2).to_sparse()}, ValueError, "`x` must be dense; found .*sparse"),
        ({"x": torch.zeros([1] * 33)}, ValueError, "`x` must have at most 32 axes; found 33"),
        ({"x": torch.zeros(1).expand(2**37)}, ValueError, "`x` must have at most .* entries"),
        (
            {"x._extra_state": {"a": 1}},
            TypeError,
            "must be a tensor; found dict, the extra",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path, state, error, message):
    with pytest.raises(error, match=message):
        save(state, tmp_path / "x.hemp")
    assert os.listdir(tmp_path) == []


def test_infinity_in_a_plain_tensor_is_kept(tmp_path):
    save({"mask": torch.tensor([0.0, -math.inf])}, tmp_path / "x.hemp")
    assert load(tmp_path / "x.hemp")["mask"].tolist() == [0.0, -math.inf]


def test_paths(tmp_path):
    with pytest.raises(IsADirectoryError, match="`path` must be a file; found the folder"):
        save({}, tmp_path)
    with pytest.raises(FileNotFoundError, match="`path` must lie in a folder that exists"):
        save({}, tmp_path / "no" / "x.hemp")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.hemp")
    (tmp_path / "to").mkdir()
    (tmp_path / "link.hemp").symlink_to(tmp_path / "to" / "x.hemp")
    save({}, tmp_path / "link.hemp")
    assert (tmp_path / "link.hemp").is_symlink() and (tmp_path / "to" / "x.hemp").is_file()
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "to" / "x.hemp").stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_old_file_survives_every_failure(tmp_path, monkeypatch):
    path = tmp_path / "net.hemp"
    save({"old": torch.ones(2, 2)}, path)
    before = path.read_bytes()
    good, bad = torch.randn(2**20 + 1), torch.tensor([math.nan])
    with pytest.raises(ValueError, match="`b` must be finite"):
        save({"a": good, "b": bad}, path, tensors=["a", "b"], num_levels=2)  # the second section
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save({"a": good}, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save({"a": good}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net.hemp"]


def test_what_reads_back_differently_is_not_written(tmp_path, monkeypatch):
    decode = TuplesDecoder.decode
    monkeypatch.setattr(TuplesDecoder, "decode", lambda *a: np.roll(decode(*a), 1))
    with pytest.raises(
        RuntimeError, match=r"tensor `w` reads back differently.*no file is written"
    ):
        save({"w": torch.randn(40, 40)}, tmp_path / "x.hemp", coder="tuples")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("part", ["values", "payload"])
def test_a_section_that_reads_back_differently_is_not_written(tmp_path, monkeypatch, part):
    """The levels alone or the indices alone: either is enough."""

    read = writing.read_section

    def changed(data, records):
        (content,) = read(data, records)
        other = {"values": content.values[::-1].copy(), "payload": content.payload + b"1"}
        return [replace(content, **{part: other[part]})]

    monkeypatch.setattr(writing, "read_section", changed)
    with pytest.raises(RuntimeError, match="tensor `w` reads back differently"):
        save({"w": torch.randn(40, 40)}, tmp_path / "x.hemp")
    assert os.listdir(tmp_path) == []


def test_a_directory_that_reads_back_differently_is_not_written(tmp_path, monkeypatch):
    write = writing.write_file

    def renamed(out, records, *rest):
        write(out, [replace(record, name="v") for record in records], *rest)

    monkeypatch.setattr(saving, "write_file", renamed)
    with pytest.raises(RuntimeError, match="the directory read back differs"):
        save({"w": torch.randn(4, 4)}, tmp_path / "x.hemp")
    assert os.listdir(tmp_path) == []


def test_what_is_written_may_be_larger_than_a_reader_allows_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "default_max_bytes", lambda _: 63)
    save({"w": torch.randn(4, 4)}, tmp_path / "x.hemp")
    with pytest.raises(HempFileError, match="63"):
        load(tmp_path / "x.hemp")
    assert load(tmp_path / "x.hemp", max_bytes=64)["w"].shape == (4, 4)
    model = nn.Linear(4, 4, bias=False)
    save(model, tmp_path / "y.hemp")
    assert load_into(model, tmp_path / "y.hemp", max_bytes=64) is model
    with pytest.raises(HempFileError, match="63"):
        load_into(model, tmp_path / "y.hemp")


def test_coded_sections_wait_beside_the_file_and_nowhere_else(tmp_path, monkeypatch):
    """The folder for temporary files may be small, or in memory."""
    monkeypatch.setattr(saving, "_SPOOL_BYTES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    save({"w": torch.randn(4, 4)}, tmp_path / "x.hemp")
    assert os.listdir(tmp_path) == ["x.hemp"]


def test_the_summary_counts_pairs_unless_told_otherwise(tmp_path):
    weights = torch.randn(300, 7)
    default = save({"w": weights, "s": torch.tensor(3)}, tmp_path / "x.hemp", num_levels=16)
    pairs = save({"w": weights}, tmp_path / "y.hemp", num_levels=16, order=2)
    assert default.tensors[0].num_levels == 16
    assert [tensor.num_entries for tensor in default.tensors] == [2100, 1]
    assert default.entropy_bits_per_weight == pairs.entropy_bits_per_weight
    assert inspect(tmp_path / "x.hemp").tensors[0] == default.tensors[0]
    triples = inspect(tmp_path / "x.hemp", order=3)
    assert triples.entropy_bits_per_weight < pairs.entropy_bits_per_weight


def test_load_into_tells_all_differences(tmp_path):
    path = tmp_path / "x.hemp"
    save(nn.Linear(4, 3), path)
    model = nn.Linear(4, 3)
    before = model.weight.clone()
    wrong = nn.Linear(5, 3, bias=False)
    wrong.register_buffer("extra", torch.zeros(2))
    with pytest.raises(ValueError) as error:
        load_into(wrong, path)
    assert str(error.value) == (
        f"`path` must hold the tensors of `model`, a Linear; found that {path} has no extra; "
        "has the unknown bias; has weight of shape (3, 4), not (3, 5)"
    )
    load_into(model, path)
    assert not torch.equal(before, model.weight)
    half = load_into(nn.Linear(4, 3).half(), path)
    assert half.weight.dtype == torch.float16
