"""ONNX models: there and back, against PyTorch and onnxruntime."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hemp_lightning import HempFileError, load, save
from hemp_lightning.cli import main
from hemp_lightning.file.onnx_files import read_onnx, save_onnx
from hemp_reader import onnx_graph
from hemp_reader.converting import convert

pytestmark = pytest.mark.filterwarnings("ignore:the levels are far", "ignore:tensor `eight` has")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.place = nn.Parameter(0.1 * torch.randn(1, 12, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 50)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.body(self.embed(words) + self.place))


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name == "transformer":
        return Transformer().eval(), torch.randint(0, 50, (2, 12))
    models = pytest.importorskip("hemp_lightning.suite.models")
    model = models.build(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics of a trained network
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model, torch.randn(2, 1, 28, 28) if name == "lenet5" else torch.randn(2, 3, 32, 32)


def run(path: Path, *inputs: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})[0]


def hemp(*words: Any) -> int:
    return main([str(word) for word in words])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5", "resnet20", "transformer"])
def test_an_exported_network_there_and_back(tmp_path, name, capsys):
    """onnxruntime on the model that comes back gives what torch gives with the file's weights."""
    pytest.importorskip("onnxscript")
    model, inputs = network(name)
    source, file, back = (tmp_path / f"{n}" for n in ("net.onnx", "net.hemp", "back.onnx"))
    torch.onnx.export(
        model, (inputs,), str(source), dynamo=True, external_data=False, optimize=False,
        verbose=False,
    )  # fmt: skip
    assert hemp("compress", source, "-o", file) == 0
    assert hemp("decompress", file, "-o", back) == 0, capsys.readouterr().err
    assert file.stat().st_size < 0.5 * source.stat().st_size
    onnx.checker.check_model(str(back), full_check=True)
    state = load(file)
    own = model.state_dict()
    held = {key: state[key] for key in own if key in state}
    quantized = [key for key in held if not torch.equal(held[key], own[key])]
    assert sum(own[key].numel() for key in quantized) > 0.9 * sum(t.numel() for t in own.values())
    before = model(inputs)
    model.load_state_dict(held, strict=False)
    with torch.no_grad():
        expected = model(inputs).numpy()
    assert np.abs(expected - before.detach().numpy()).max() > 1e-4  # the weights did move
    np.testing.assert_allclose(run(back, inputs), expected, atol=1e-5, rtol=0)
    same = onnx.load(str(source)), onnx.load(str(back))
    for each in same:
        del each.graph.initializer[:]
    assert same[0] == same[1]  # opset, metadata, nodes, names: all but the initializers


@pytest.mark.slow
def test_an_optimized_export_keeps_what_its_nodes_need(tmp_path):
    """Weights that the exporter transposed and fused, and constants among them."""
    pytest.importorskip("onnxscript")
    model, inputs = network("transformer")
    source, back = tmp_path / "net.onnx", tmp_path / "back.onnx"
    torch.onnx.export(
        model, (inputs,), str(source), dynamo=True, external_data=False, verbose=False
    )
    save_onnx(source, tmp_path / "net.hemp")
    convert(tmp_path / "net.hemp", back)
    state = load(tmp_path / "net.hemp")
    quantized = onnx.load(str(source))
    for tensor in quantized.graph.initializer:
        if tensor.name in state:
            tensor.CopyFrom(numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
    onnx.save(quantized, str(tmp_path / "quantized.onnx"))
    found = run(back, inputs)
    np.testing.assert_array_equal(found, run(tmp_path / "quantized.onnx", inputs))
    assert 0 < np.abs(found - run(source, inputs)).max() < 0.2


def tensor(name: str, values: np.ndarray) -> Any:
    return numpy_helper.from_array(values, name)


def small_model(**extra: Any) -> Any:
    """A product, a sum and a clip, with initializers of many dtypes that no node takes."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Clip", ["sum", "low", "high"], ["y"]),
    ]
    initializers = [
        tensor("weight", rng.normal(size=(24, 16)).astype(np.float32)),
        tensor("bias", rng.normal(size=24).astype(np.float32)),
        tensor("low", np.float32(-1.2345678)),
        tensor("high", np.float32(2.3456789)),
        tensor("table", rng.normal(size=(9, 9)).astype(np.float32)),
        tensor("doubles", rng.normal(size=(9, 9))),
        tensor("words", np.array(["a", "b"], object)),
        tensor("numbers", rng.integers(-9, 9, (8, 16))),
        tensor("mask", rng.random((8, 16)) < 0.5),
        helper.make_tensor("four", onnx.TensorProto.INT4, [3], np.array([1, -2, 7])),
        helper.make_tensor("eight", onnx.TensorProto.FLOAT8E4M3FN, [80], rng.bytes(80), raw=True),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 24])],
        initializers,
        doc_string="a test",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"author": "someone"})
    return model


@pytest.fixture
def small(tmp_path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(small_model(), str(path))
    return path


def by_name(path: Path) -> dict[str, Any]:
    return {t.name: t for t in onnx.load(str(path)).graph.initializer}


def test_what_nodes_do_not_use_as_weights_stays_exact(small, tmp_path):
    taken = read_onnx(small)
    assert taken.weights == ["weight"] and taken.kernels == []
    assert set(taken.tensors) == {
        onnx_graph.GRAPH, "weight", "bias", "doubles", "numbers", "mask", "eight"
    }  # fmt: skip
    save_onnx(small, tmp_path / "small.hemp", num_levels=8)
    convert(tmp_path / "small.hemp", tmp_path / "back.onnx")
    onnx.checker.check_model(str(tmp_path / "back.onnx"), full_check=True)
    before, after = by_name(small), by_name(tmp_path / "back.onnx")
    assert list(before) == list(after)
    for name in set(before) - {"weight", "bias"}:
        first, second = (numpy_helper.to_array(t[name]) for t in (before, after))
        assert first.dtype == second.dtype and first.tobytes() == second.tobytes(), name
    weights = numpy_helper.to_array(after["weight"])
    assert len(np.unique(weights)) == 8
    x = torch.randn(3, 16)
    expected = (x @ torch.from_numpy(weights.copy()).T).numpy()
    expected = np.clip(
        expected + numpy_helper.to_array(after["bias"]),
        np.float32(-1.2345678),
        np.float32(2.3456789),
    )
    np.testing.assert_allclose(run(tmp_path / "back.onnx", x), expected, atol=1e-5)


def test_external_data_stay_external(tmp_path):
    path = tmp_path / "in" / "small.onnx"
    path.parent.mkdir()
    onnx.save(
        small_model(), str(path), save_as_external_data=True, location="small.bin", size_threshold=0
    )
    save_onnx(path, tmp_path / "small.hemp")
    out = tmp_path / "out" / "back.onnx"
    out.parent.mkdir()
    convert(tmp_path / "small.hemp", out)
    assert (out.parent / "small.bin").stat().st_size > 24 * 16 * 4
    assert out.stat().st_size < 4096
    onnx.checker.check_model(str(out))
    x = torch.randn(3, 16)
    np.testing.assert_allclose(run(out, x), run(path, x), atol=0.05)
    with pytest.raises(FileExistsError, match=r"without small\.bin"):
        convert(tmp_path / "small.hemp", out.with_name("again.onnx"))
    assert not out.with_name("again.onnx").exists()


def test_subgraphs_are_looked_into(tmp_path):
    """An If whose branches have weights of one name: the first is coded, the second is kept."""
    rng = np.random.default_rng(1)

    def branch(name: str) -> Any:
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 8])
        weights = tensor("w", rng.normal(size=(8, 8)).astype(np.float32))
        return helper.make_graph([node], name, [], [out], [weights])

    node = helper.make_node("If", ["c"], ["z"], then_branch=branch("t"), else_branch=branch("e"))
    graph = helper.make_graph(
        [node],
        "choice",
        [
            helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 8]),
        ],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None, 8])],
    )
    path = tmp_path / "choice.onnx"
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    save_onnx(path, tmp_path / "choice.hemp", num_levels=4)
    assert list(load(tmp_path / "choice.hemp")) == [onnx_graph.GRAPH, "w"]
    convert(tmp_path / "choice.hemp", tmp_path / "back.onnx")
    x = torch.randn(2, 8)
    second, first = torch.tensor(True), torch.tensor(False)  # attributes stand by their names
    back = tmp_path / "back.onnx"
    np.testing.assert_array_equal(run(back, second, x), run(path, second, x))
    assert np.abs(run(back, first, x) - run(path, first, x)).max() > 1e-3


def test_the_reader_writes_a_model_back_without_torch(small, tmp_path):
    save_onnx(small, tmp_path / "small.hemp", num_levels=8)
    assert main(["decompress", str(tmp_path / "small.hemp"), "-o", str(tmp_path / "a.onnx")]) == 0
    program = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'lightning', 'hemp_lightning', "
        "'numba', 'constriction')); from hemp_reader.__main__ import main; sys.exit(main())"
    )
    words = [str(tmp_path / "small.hemp"), "-o", str(tmp_path / "b.onnx")]
    subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_files_that_hold_no_graph_or_another_are_refused(small, tmp_path):
    save({"a": torch.ones(3)}, tmp_path / "plain.hemp")
    with pytest.raises(ValueError, match="must hold an ONNX graph; found tensors alone"):
        convert(tmp_path / "plain.hemp", tmp_path / "back.onnx")
    taken = read_onnx(small)
    metadata = {"metadata": taken.metadata}
    rest = {k: t for k, t in taken.tensors.items() if k != onnx_graph.GRAPH}
    graph = taken.tensors[onnx_graph.GRAPH]
    empty = torch.frombuffer(bytearray(onnx_graph.pack(onnx.ModelProto())), dtype=torch.uint8)
    for state, words in (
        (rest, "a graph packed with lzma"),
        ({onnx_graph.GRAPH: graph}, "a tensor for the initializer `weight`"),
        ({**taken.tensors, "more": torch.ones(2)}, "none for `more`"),
        ({**taken.tensors, "bias": torch.ones(23)}, r"shape \(24,\) of `bias`"),
        ({**taken.tensors, "bias": torch.ones(24).double()}, "96 bytes of `bias`"),
        ({**rest, onnx_graph.GRAPH: graph[:-20]}, "one LZMA stream"),
        ({**rest, onnx_graph.GRAPH: graph.flip(0)}, "an ONNX graph"),
        ({**rest, onnx_graph.GRAPH: empty}, "initializers for all tensors"),
    ):
        save(state, tmp_path / "bad.hemp", tensors=[], **metadata)
        with pytest.raises(HempFileError, match=words):
            convert(tmp_path / "bad.hemp", tmp_path / "back.onnx")
        assert not (tmp_path / "back.onnx").exists()


def test_a_graph_that_unpacks_into_much_is_refused():
    model = onnx.ModelProto(doc_string="a" * 10_000)
    with pytest.raises(HempFileError, match="at most `max_bytes`=5000"):
        onnx_graph.unpack(onnx_graph.pack(model), 5000)
    header = bytearray(onnx_graph.pack(model))
    header[1:5] = struct.pack("<I", 2**31)  # a dictionary of 2 GiB
    with pytest.raises(HempFileError, match="an ONNX graph"):
        onnx_graph.unpack(bytes(header), 50_000)


@pytest.mark.parametrize("location", ["../away.bin", "/tmp/away.bin", ""])
def test_external_data_outside_of_the_folder_are_refused(small, tmp_path, location):
    model = onnx.load(str(small))
    onnx_graph.set_place(model.graph.initializer[0], {"location": location})
    with pytest.raises(ValueError, match="must lie in the folder of the model"):
        onnx_graph.write_model(model, tmp_path / "out.onnx")


def test_the_command_says_what_is_wrong(small, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    assert hemp("compress", broken, "-o", tmp_path / "a.hemp") == 1
    assert "must be an ONNX model" in capsys.readouterr().err
    assert hemp("compress", small, "-o", tmp_path / "a.onnx") == 2
    assert "must not end like a float checkpoint" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert hemp("compress", small, "-o", tmp_path / "a.hemp") == 2
    assert "pip install onnx" in capsys.readouterr().err


@pytest.mark.slow
def test_export_makes_a_model_with_the_weights_of_the_file(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("hemp_lightning.suite.models")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported_net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))\n"
    )
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()
    save(model, "net.hemp", num_levels=16)
    words = ["export", "net.hemp", "--model", "exported_net:build", "-o", "net.onnx", "--inputs"]
    assert hemp(*words, "3x8") == 0
    assert "net.onnx: " in capsys.readouterr().out
    onnx.checker.check_model("net.onnx")
    model.load_state_dict(load("net.hemp"))
    inputs = torch.randn(3, 8)
    with torch.no_grad():
        np.testing.assert_allclose(run(Path("net.onnx"), inputs), model(inputs), atol=1e-5)
    for wrong, said in (("3y8", "must be shapes such as"), ("3x9", "--inputs that fit")):
        assert hemp(*words, wrong) == 2
        assert said in capsys.readouterr().err
