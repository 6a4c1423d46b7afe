"""Format versions 1 to 3: golden files, a second reader, and every flipped bit.

Files of version 1 stay readable for ever: golden files are never edited, and a new version of the
format adds its own. `python tests/file/test_format.py` writes those that do not exist.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemp_lightning import HempFileError, load, save
from hemp_lightning.coding import CODERS
from hemp_lightning.file.format.steps import round_to_steps
from hemp_lightning.file.format.storages import EXACT
from hemp_lightning.file.state import read_entries
from hemp_lightning.file.tolerances import Norms
from hemp_lightning.quantization.quantizers import Codebook
from hemp_reader.reading import inspect, verify
from hemp_reader.transforms import is_transformable

DATA = Path(__file__).parents[1] / "data"
_spec = importlib.util.spec_from_file_location(
    "reference_file", Path(__file__).with_name("reference_file.py")
)
reference_file = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference_file)

LEVELS = Codebook(torch.tensor([-0.75, -0.25, 0.0, 0.25, 0.5]))
WIDE = Codebook(torch.tensor([-0.1, 0.0, 0.3]))


def numbers(seed, *shape):
    """Numbers that are the same with every version of every library."""
    rng = random.Random(seed)
    count = 1
    for extent in shape:
        count *= extent
    return torch.tensor([rng.gauss(0, 0.3) for _ in range(count)]).reshape(shape)


def lenet():
    return {
        "conv1.weight": numbers(1, 4, 1, 3, 3),
        "conv1.bias": numbers(2, 4),
        "bn1.weight": 1 + numbers(3, 4),
        "bn1.running_var": numbers(4, 4).abs(),
        "bn1.num_batches_tracked": torch.tensor(1200),
        "fc.weight": numbers(5, 3, 7),
        "fc.bias": numbers(6, 3),
    }


def every_dtype():
    state = {}
    for seed, (dtype, storage) in enumerate(EXACT.items()):
        entries = 10 * numbers(seed, 3, 2).abs()
        if dtype == torch.bool:
            entries = entries > 2
        state[f"größe.{storage.label}"] = entries.to(dtype)
    state["a.scalar"] = torch.tensor(2.5)
    state["a.empty"] = torch.empty(0, 3)
    state["a.tied"] = state["a.scalar"]
    state["a\n.deep"] = torch.arange(6).reshape(1, 1, 1, 1, 2, 1, 3)
    state["mask"] = torch.tensor([0.0, -float("inf")])
    return state


def statistics():
    """What BatchNorm holds, with a channel that is all but dead; a constant, and an empty one."""
    return {
        "bn.weight": 1 + numbers(14, 40),
        "bn.bias": numbers(15, 40),
        "bn.running_mean": 3 * numbers(16, 40),
        "bn.running_var": numbers(17, 40) ** 2 + 1e-7,
        "scale": torch.tensor(0.7),
        "ones": torch.ones(5),
        "empty": torch.empty(0),
        "deep": numbers(18, 3, 4),
    }


COSINES = Codebook(LEVELS.levels, transform="dct")


def kernels():
    """Of one, two and three axes, depthwise too; one tensor takes a single level."""
    return {
        "conv.weight": numbers(21, 6, 4, 3, 3),
        "depth.weight": numbers(22, 5, 1, 3, 5),
        "sound.weight": numbers(23, 3, 2, 7).half(),
        "volume.weight": numbers(24, 2, 2, 2, 3, 2).double(),
        "silent.weight": 0.1 * numbers(25, 2, 2, 2, 2).clamp(-1, 1),
        "fc.weight": numbers(26, 3, 7),
        "fc.bias": numbers(27, 3),
    }


# name: (state_dict, options of save). Together they hold every coder, storage and kind of record.
CASES = {
    "lenet": (
        lenet,
        {
            "codebooks": {"conv1.weight": LEVELS, "fc.weight": WIDE},
            "coder": "tuples",
            "order": 1,
            "float_dtype": "float16",
        },
    ),
    "context": (
        lambda: {"w": numbers(12, 8, 4, 3, 3), "b": numbers(13, 400)},
        {"codebooks": {"w": LEVELS}, "float_dtype": "float16"},
    ),
    "dtypes": (every_dtype, {"codebooks": {}, "float_dtype": "bfloat16"}),
    "tuples": (
        lambda: {"w": numbers(7, 6, 5, 3).half(), "v": numbers(8, 2, 2).double()},
        {"coder": "tuples", "order": 2, "scan": "input", "codebooks": {"w": LEVELS, "v": LEVELS}},
    ),
    **{
        coder: (
            lambda: {"w": numbers(9, 5, 8), "c": torch.full((3, 3), 0.25), "b": numbers(10, 2)},
            {"coder": coder, "codebooks": {"w": LEVELS, "c": LEVELS}, "float_dtype": "float32"},
        )
        for coder in ("raw", "lzma", "bz2", "zlib")
    },
    "deflated": (
        lambda: {f"layers.{i}.norm.{x}": torch.zeros(1) for i in range(12) for x in "ab"},
        {"float_dtype": "float16"},
    ),
    "sections": (
        lambda: {"big": torch.zeros(2**20 + 1, dtype=torch.int32), "w": numbers(11, 4, 4)},
        {"codebooks": {"w": LEVELS}, "coder": "tuples", "order": 1},
    ),
    "steps": (
        statistics,
        {"float_dtype": "steps", "num_levels": 16},
    ),  # as written before limits were kept to
    "norms": (statistics, {"float_dtype": "steps", "num_levels": 16}),
    "fast": (
        lambda: {"w": numbers(19, 8, 4, 3, 3), "b": numbers(20, 30)},
        {"codebooks": {"w": LEVELS}, "coder": "fast", "float_dtype": "steps"},
    ),
    "transform": (
        kernels,
        {
            "codebooks": {
                "conv.weight": COSINES,
                "depth.weight": Codebook(WIDE.levels, transform="dct"),
                "sound.weight": COSINES,
                "volume.weight": COSINES,
                "silent.weight": COSINES,
                "fc.weight": LEVELS,
            },
            "coder": "raw",
            "float_dtype": "float16",
        },
    ),
    "frequency": (
        kernels,
        {
            "codebooks": {
                "conv.weight": COSINES,
                "depth.weight": COSINES,
                "sound.weight": COSINES,
                "volume.weight": COSINES,
                "silent.weight": COSINES,
                "fc.weight": LEVELS,
            },
            "coder": "frequency",
            "float_dtype": "float16",
        },
    ),
    "metadata": (
        lambda: {"w": numbers(28, 4, 3)},
        {
            "codebooks": {"w": LEVELS},
            "coder": "raw",
            "metadata": {"format": "pt", "größe": "", "": "x"},
        },
    ),
}
VERSION_2 = ("steps", "norms", "fast")
VERSION_3 = ("transform", "frequency", "metadata")
# Others may be written differently: by other versions of the libraries for deflate, LZMA and bz2,
# or by a context coder that has learned to choose better.
SAME_BYTES = ("lenet", "dtypes", "tuples", "raw", "sections", "norms", "fast", *VERSION_3)


def golden(name):
    return DATA / f"version{version_of(name)}_{name}.hemp"


def version_of(name):
    return 3 if name in VERSION_3 else 2 if name in VERSION_2 else 1


def digest(state):
    """Of names, dtypes, shapes and all bytes."""
    sha = hashlib.sha256()
    for name, tensor in state.items():
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", CASES)
def test_golden_files_decode_to_what_was_written(name, tmp_path):
    build, options = CASES[name]
    state, books = build(), options.get("codebooks", {})
    found = load(golden(name), threads=1)
    assert list(found) == list(state)
    assert digest(found) == digest(load(golden(name), threads=4))
    for key, tensor in state.items():
        wanted = books[key].quantize(tensor).to(tensor.dtype) if key in books else tensor
        if key not in books and tensor.dtype == torch.float32:
            dtype = options.get("float_dtype", "float16").replace("steps", "float16")
            held = getattr(torch, dtype)
            limits = Norms(read_entries(state)).limits(key, tensor) if name == "norms" else None
            stepped = round_to_steps(tensor, limits) if name in VERSION_2 else None
            wanted = tensor.to(held).float() if stepped is None else stepped
        assert digest({key: found[key]}) == digest({key: wanted}), key


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", SAME_BYTES)
def test_golden_files_are_written_byte_for_byte(name, tmp_path):
    build, options = CASES[name]
    save(build(), tmp_path / "x.hemp", **options)
    assert (tmp_path / "x.hemp").read_bytes() == golden(name).read_bytes()


def words_of(tensor):
    """Words of a tensor as the second reader gives them."""
    word = EXACT[tensor.dtype].word
    data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return tuple(int.from_bytes(data[i : i + word], "little") for i in range(0, len(data), word))


def compare_with_reference(path):
    found, wanted = load(path), reference_file.read_file(path.read_bytes())
    assert list(found) == list(wanted)
    for name, tensor in found.items():
        if isinstance(wanted[name], str):
            assert tensor is found[wanted[name]]
            continue
        dtype, shape, words = wanted[name]
        assert shape == tuple(tensor.shape)
        assert dtype.split(" as ")[0] == str(tensor.dtype).removeprefix("torch.")
        if " as " in dtype and not dtype.endswith("steps"):
            tensor = tensor.to(getattr(torch, dtype.split(" as ")[1]))
        if tensor.is_floating_point() and len(words) and words_of(tensor) != words:
            # A quantized tensor that is not float32: the second reader leaves it in float32.
            single = torch.tensor(words, dtype=torch.uint32).view(torch.float32)
            assert words_of(tensor.reshape(-1)) == words_of(single.to(tensor.dtype)), name
            continue
        assert words_of(tensor) == words, name


@pytest.mark.parametrize("name", [name for name in CASES if name != "sections"])
def test_a_second_reader_agrees_on_golden_files(name):
    compare_with_reference(golden(name))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_second_reader_agrees_on_any_file(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "x.hemp"
    state, books = {}, {}
    for number in range(data.draw(st.integers(0, 6))):
        shape = data.draw(st.lists(st.integers(0, 7), max_size=5))
        name = data.draw(st.sampled_from(["layer1.", "bn", "größe\n", "x" * 20])) + str(number)
        tensor = numbers(data.draw(st.integers(0, 99)), *shape)
        if data.draw(st.booleans()):
            tensor = (100 * tensor).to(data.draw(st.sampled_from([torch.int64, torch.uint8])))
        elif tensor.numel() and data.draw(st.booleans()):
            transforms = ["none", "dct"] if is_transformable(tensor.shape) else ["none"]
            levels = data.draw(st.sampled_from([LEVELS, WIDE])).levels
            books[name] = Codebook(levels, transform=data.draw(st.sampled_from(transforms)))
        state[name] = tensor
        if data.draw(st.booleans()):
            state[f"tied.{number}"] = tensor
    save(
        state,
        path,
        codebooks=books,
        coder=data.draw(st.sampled_from(list(CODERS))),
        order=data.draw(st.integers(1, 3)),
        scan=data.draw(st.sampled_from(["row_major", "kernel", "input", "output"])),
        float_dtype=data.draw(st.sampled_from(["steps", "float16", "bfloat16", "float32"])),
        cells=data.draw(st.sampled_from(["auto", "priced"])),
    )
    compare_with_reference(path)


def test_metadata_comes_back():
    wanted = CASES["metadata"][1]["metadata"]
    assert inspect(golden("metadata")).metadata == wanted
    assert reference_file.read_metadata(golden("metadata").read_bytes()) == wanted
    assert inspect(golden("raw")).metadata == {}


def test_inspect_names_transforms():
    found = {tensor.name: tensor.transform for tensor in inspect(golden("transform")).tensors}
    assert found == {
        "conv.weight": "dct",
        "depth.weight": "dct",
        "sound.weight": "dct",
        "volume.weight": "dct",
        "silent.weight": "dct",
        "fc.weight": "none",
        "fc.bias": "none",
    }


@pytest.mark.parametrize("name", CASES)
def test_files_say_the_lowest_version_that_has_all_of_them(name, tmp_path):
    data = bytearray(golden(name).read_bytes())
    assert data[4] == version_of(name)
    for lower in range(1, version_of(name)):
        data[4] = lower
        size = int.from_bytes(data[6:10], "little")
        data[10:14] = zlib.crc32(data[:10] + data[14 : 14 + size]).to_bytes(4, "little")
        (tmp_path / "x.hemp").write_bytes(data)
        with pytest.raises(HempFileError, match=r"expected format version|end of the directory"):
            load(tmp_path / "x.hemp")


@pytest.mark.parametrize("name", ["lenet", "tuples", "deflated", "steps", *VERSION_3])
def test_every_flipped_bit_and_every_cut_is_noticed(name, tmp_path):
    data = golden(name).read_bytes()
    path = tmp_path / "x.hemp"
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(HempFileError):
            load(path)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(HempFileError):
            load(path)
    path.write_bytes(data)
    verify(path)


if __name__ == "__main__":
    for case, (build, options) in CASES.items():
        if not golden(case).exists():
            save(build(), golden(case), **options)
            print(golden(case), golden(case).stat().st_size)
