"""Save and load: nothing is lost, and the summary counts what is there."""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from hemp_lightning import from_file, load, load_into, save
from hemp_lightning.coding import CODERS
from hemp_lightning.file.format.steps import round_to_steps
from hemp_lightning.file.format.storages import EXACT
from hemp_lightning.file.state import read_entries
from hemp_lightning.file.tolerances import Norms
from hemp_lightning.quantization.quantizers import Codebook, LloydMaxQuantizer, UniformQuantizer
from hemp_reader.format import files
from hemp_reader.reading import inspect, verify


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


class Odd(nn.Module):
    """Transposed, grouped, tied, empty, scalar, integer, complex, dots and Unicode in names."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.embedding = nn.Embedding(11, 5)
        self.output = nn.Linear(5, 11)
        self.output.weight = self.embedding.weight
        self.parts = nn.ModuleDict({"größe": nn.Linear(3, 3), "层\n": nn.Conv3d(1, 2, 2)})
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.nothing = nn.Parameter(torch.empty(0, 4))
        self.precise = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.register_buffer("mask", torch.rand(5, 5) > 0.5)
        self.register_buffer("steps", torch.tensor([3, -7, 2**40]))
        self.register_buffer("phase", torch.randn(4, dtype=torch.complex64))
        self.register_buffer("short", torch.randn(3).half())
        self.register_buffer("attention", torch.full((2, 2), -math.inf).triu(1))


def test_a_network_with_everything_comes_back(tmp_path):
    model = Odd()
    exact = {"float_dtype": "steps", "transform": "none"}
    summary = save(model, tmp_path / "odd.hemp", num_levels=5, **exact)
    state, found = model.state_dict(), load(tmp_path / "odd.hemp")
    assert list(found) == list(state)
    quantized = {t.name for t in summary.tensors if t.num_levels}
    assert quantized == {
        "up.weight",
        "embedding.weight",
        "output.weight",
        "parts.größe.weight",
        "parts.层\n.weight",
    }
    norms = Norms(read_entries(state))
    for name, tensor in state.items():
        if name in quantized:
            codebook = LloydMaxQuantizer(5).fit(tensor).half_precision()
            assert same(found[name], codebook.quantize(tensor)), name
        elif tensor.dtype == torch.float32:
            held = None
            if tensor.ndim < 2:
                held = round_to_steps(tensor, norms.limits(name, tensor))
            assert same(found[name], tensor.half().float() if held is None else held), name
        else:
            assert same(found[name], tensor), name
    assert found["output.weight"] is found["embedding.weight"]
    other = Odd()
    assert load_into(other, tmp_path / "odd.hemp") is other
    for name, tensor in other.state_dict().items():
        assert same(tensor, found[name]), name
    assert other.output.weight is other.embedding.weight
    verify(tmp_path / "odd.hemp")


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_every_dtype_layout_and_size_is_held_exactly(tmp_path):
    state = OrderedDict()
    for dtype in EXACT:
        base = torch.randint(0, 2, (4, 6)) if not dtype.is_floating_point else torch.randn(4, 6)
        for label, tensor in {
            "plain": base,
            "transposed": base.t(),
            "strided": base[:, ::2],
            "expanded": base[:1].expand(3, 6),
            "scalar": base[0, 0],
            "empty": base[:0],
            "large": torch.randn(3000).abs() * 50,
            "deep": base.reshape(1, 1, 2, 1, 2, 1, 2, 3, 1),
        }.items():
            state[f"{label}.{dtype}"] = tensor.to(dtype)
    state["conjugate"] = torch.randn(3, dtype=torch.complex64).conj()
    state["negative"] = torch.randn(3, dtype=torch.complex64).conj().imag
    save(state, tmp_path / "all.hemp", codebooks={}, float_dtype="float32")
    found = load(tmp_path / "all.hemp")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert same(found[name], tensor.resolve_neg()), name
    verify(tmp_path / "all.hemp")


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_quantized_tensors_are_their_reconstruction(tmp_path, coder, dtype):
    state = {"a": torch.randn(40, 9).to(dtype), "b": torch.randn(3, 2, 3, 3).to(dtype)}
    books = {
        "a": Codebook(torch.tensor([-1.0, -0.25, 0.0, 0.1, 1.5])),  # 0.1 needs four bytes
        "b": UniformQuantizer(300).fit(state["b"]),
    }
    summary = save(state, tmp_path / "q.hemp", codebooks=books, coder=coder)
    found = load(tmp_path / "q.hemp")
    for name in state:
        assert same(found[name], books[name].quantize(state[name]).to(dtype)), name
    if coder != "context":
        assert {tensor.coder for tensor in summary.tensors} == {coder}


def test_constant_unused_and_single_levels(tmp_path):
    state = {"equal": torch.full((30, 30), 0.25), "one": torch.tensor([[3.5]])}
    books = {
        "equal": Codebook(torch.tensor([-1.0, 0.25, 8.0])),
        "one": Codebook(torch.tensor([3.5])),
    }
    summary = save(state, tmp_path / "c.hemp", codebooks=books, coder="lzma")
    assert [(t.coder, t.num_levels) for t in summary.tensors] == [("constant", 1)] * 2
    assert summary.file_bytes < 50
    for name, tensor in load(tmp_path / "c.hemp").items():
        assert same(tensor, state[name])


def test_the_shortest_coder_is_taken(tmp_path):
    tensor = torch.randn(2, 3)
    quantized = torch.sign(torch.randn(200, 50)) * (torch.rand(200, 50) > 0.9)
    sizes = {}
    for coder in ("context", "tuples", "raw"):
        path = tmp_path / f"{coder}.hemp"
        sizes[coder] = save(
            {"small": tensor, "sparse": quantized}, path, num_levels=16, coder=coder
        ).tensors
    for i in (0, 1):
        assert sizes["context"][i].bytes <= min(sizes["tuples"][i].bytes, sizes["raw"][i].bytes)
    assert sizes["context"][0].coder in ("context", "tuples", "raw")


def test_summary_counts_everything_once(tmp_path):
    model = Odd()
    path = tmp_path / "odd.hemp"
    started = time.perf_counter()
    summary = save(model, path, num_levels=4, order=1, transform="none")
    took = time.perf_counter() - started
    entries = sum(p.numel() for p in {*model.parameters(), *model.buffers()})
    assert summary.float_bytes == 4 * entries
    assert summary.file_bytes == os.path.getsize(path)
    assert summary.compression_ratio == pytest.approx(4 * entries / summary.file_bytes)
    assert summary.bits_per_weight == pytest.approx(8 * summary.file_bytes / entries)
    assert 0 < summary.encode_seconds <= took
    overhead = summary.file_bytes - sum(t.bytes for t in summary.tensors)
    assert 18 < overhead < 350
    codebook = LloydMaxQuantizer(4).fit(model.up.weight)
    counts = np.bincount(codebook.assign(model.up.weight).reshape(-1).numpy())
    entropy = float(-(counts / counts.sum() * np.log2(counts / counts.sum())).sum())
    (up,) = [tensor for tensor in summary.tensors if tensor.name == "up.weight"]
    assert up.entropy_bits_per_weight == pytest.approx(entropy)
    again = inspect(path, order=1)
    assert again.tensors == summary.tensors
    assert (again.float_bytes, again.file_bytes) == (summary.float_bytes, summary.file_bytes)
    assert again.entropy_bits_per_weight == pytest.approx(summary.entropy_bits_per_weight)


def test_zeros_take_fewer_bytes_than_the_numbers_beside_them(tmp_path):
    state = {"mean": torch.zeros(200), "variance": torch.rand(200) + 1}
    summary = save(state, tmp_path / "norm.hemp", float_dtype="steps")
    mean, variance = (tensor.bytes for tensor in summary.tensors)
    assert 0 < 4 * mean < variance  # a bit and seven or eight each
    assert 18 < summary.file_bytes - mean - variance < 60  # header, directory and checksums


def test_summary_by_hand(tmp_path):
    """Pairs run down the columns, where both tensors alternate: no bits at order 2."""
    down = torch.tensor([[0.0], [1.0]]).expand(2, 6).repeat(3, 1)  # (6, 6): rows 0, 1, 0, 1 ...
    across = down.T.contiguous()  # down a column one pair of each kind: 1 bit a pair
    state = {"down": down, "across": across, "again": across, "one": torch.ones(5, 4)}
    state["plain"] = torch.randn(7)
    book = Codebook(torch.tensor([0.0, 1.0]))
    books = {"down": book, "across": book, "one": Codebook(torch.tensor([1.0]))}
    path = tmp_path / "hand.hemp"
    options = {"order": 2, "scan": "kernel"}
    for summary in (save(state, path, codebooks=books, **options), inspect(path, **options)):
        found = {tensor.name: tensor for tensor in summary.tensors}
        rates = {name: tensor.entropy_bits_per_weight for name, tensor in found.items()}
        assert rates == {"down": 0, "across": 0.5, "again": 0.5, "one": 0, "plain": 0}
        assert summary.entropy_bits_per_weight == pytest.approx(36 * 0.5 / (36 + 36 + 20))
        assert found["again"].coder == "alias of across" and found["across"].coder in CODERS
        assert (found["again"].bytes, found["again"].table_bytes) == (0, 0)
        assert (found["one"].coder, found["plain"].coder) == ("constant", "plain")
        assert found["plain"].table_bytes == found["one"].table_bytes == 0
        assert summary.bits_per_weight == 8 * summary.file_bytes / (36 + 36 + 20 + 7)
    assert summary.encode_seconds == 0


@pytest.mark.parametrize(("count", "end"), [(8, "k7$"), (9, "k7 and 1 more$")])
def test_many_names_are_cut(tmp_path, count, end):
    path = tmp_path / "x.hemp"
    save({f"k{n}": torch.zeros(3, 3) for n in range(count)}, path)
    with pytest.raises(ValueError, match=f"k0, k1, .*{end}"):
        load_into(nn.Module(), path)


def test_lenet_overhead_is_small(tmp_path):
    """All that is not coded content, of a LeNet-5: eight tensors, 431,080 weights."""
    shapes = {
        "conv1": (20, 1, 5, 5),
        "conv2": (50, 20, 5, 5),
        "fc1": (500, 800),
        "fc2": (10, 500),
    }
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape) * (torch.rand(shape) < 0.01)
        state[f"{name}.bias"] = torch.zeros(shape[0])
    summary = save(state, tmp_path / "lenet.hemp", num_levels=7, tensors="all")
    assert summary.file_bytes - sum(t.bytes for t in summary.tensors) < 100
    found = load(tmp_path / "lenet.hemp")
    assert all(same(found[f"{name}.bias"], state[f"{name}.bias"]) for name in shapes)


def test_many_alike_names_are_deflated(tmp_path):
    state = {f"blocks.{i}.norm.{leaf}": torch.zeros(8) for i in range(60) for leaf in "abcd"}
    summary = save(state, tmp_path / "many.hemp")
    assert (tmp_path / "many.hemp").read_bytes()[5] == 1
    assert summary.file_bytes < 1500
    assert list(load(tmp_path / "many.hemp")) == list(state)


def test_large_tensors_have_sections_of_their_own(tmp_path):
    state = {
        "a": torch.zeros(10),
        "big": torch.zeros(2**20 + 5, dtype=torch.int32),
        "b": torch.zeros(10),
        "c": torch.ones(10),
    }
    save(state, tmp_path / "s.hemp")
    with files.opened(tmp_path / "s.hemp") as file:
        assert [[r.name for r in group] for _, _, group in file.sections()] == [
            ["a"],
            ["big"],
            ["b", "c"],
        ]
    assert all(same(load(tmp_path / "s.hemp")[name], state[name]) for name in state)


def test_empty_state_dict(tmp_path):
    summary = save({}, tmp_path / "e.hemp")
    assert summary.file_bytes == 15 and summary.float_bytes == 0
    assert load(tmp_path / "e.hemp") == {}
    assert save(nn.ReLU(), tmp_path / "m.hemp").tensors == []


def test_tied_tensors_are_recognized_by_their_memory(tmp_path):
    base = torch.randn(6, 6)
    state = {
        "base": base,
        "same": base,
        "view": base.view(6, 6),
        "transposed": base.t(),
        "part": base[:3],
        "equal": base.clone(),
    }
    summary = save(state, tmp_path / "t.hemp", codebooks={})
    aliases = [t.name for t in summary.tensors if t.coder == "alias of base"]
    assert aliases == ["same", "view"]
    assert summary.float_bytes == 4 * (36 * 3 + 18)
    found = load(tmp_path / "t.hemp")
    assert found["same"] is found["base"] and found["transposed"] is not found["base"]
    assert torch.equal(found["transposed"], found["base"].t())


def test_codebook_of_a_tied_tensor_by_either_name(tmp_path):
    weight = torch.randn(5, 5)
    book = UniformQuantizer(3).fit(weight)
    save({"first": weight, "second": weight}, tmp_path / "t.hemp", codebooks={"second": book})
    found = load(tmp_path / "t.hemp")
    assert same(found["first"], book.quantize(weight)) and found["second"] is found["first"]


def test_compiled_modules_have_plain_keys(tmp_path):
    model = nn.Linear(4, 3)
    compiled = torch.compile(model)
    save(compiled, tmp_path / "c.hemp")
    assert list(load(tmp_path / "c.hemp")) == ["weight", "bias"]
    load_into(compiled, tmp_path / "c.hemp")


@pytest.mark.parametrize(
    ("tensors", "quantized"),
    [
        ("weights", ["a.weight", "c.weight"]),
        ("all", ["a.weight", "a.bias", "c.weight"]),
        ("*.bias", ["a.bias"]),
        (["c.*", "a.bias"], ["a.bias", "c.weight"]),
    ],
)
def test_choice_of_tensors_of_a_state_dict(tmp_path, tensors, quantized):
    state = {
        "a.weight": torch.randn(4, 4),
        "a.bias": torch.randn(40),
        "b.steps": torch.zeros(3, 3, dtype=torch.int64),
        "c.weight": torch.randn(2, 2).double(),
    }
    summary = save(state, tmp_path / "x.hemp", tensors=tensors)
    assert [t.name for t in summary.tensors if t.num_levels] == quantized


def test_from_file_builds_reads_and_evaluates(tmp_path):
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))
        model[0].weight.requires_grad_(False)
        return model

    trained = build()
    save(trained.state_dict(), tmp_path / "net.hemp", tensors=[])
    model = from_file(tmp_path / "net.hemp", build)
    assert not any(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    state = load(tmp_path / "net.hemp")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="has no"):
        from_file(tmp_path / "net.hemp", lambda: nn.Linear(4, 3))
    with pytest.raises(TypeError, match=r"`build` must be a callable .* found Linear"):
        from_file(tmp_path / "net.hemp", nn.Linear(4, 3))
    with pytest.raises(TypeError, match="`build` must return a module; found dict"):
        from_file(tmp_path / "net.hemp", lambda: {})
