"""The reader by itself: NumPy alone, every golden file and every committed result, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hemp_lightning
import hemp_reader
from hemp_lightning.file.format.storages import DTYPES

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests" / "data").glob("*.hemp"))
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("model.hemp"))
BLOCKED = (
    *("torch", "lightning", "pytorch_lightning", "hemp_lightning", "safetensors", "tqdm"),
    *("numba", "llvmlite", "constriction", "ml_dtypes", "scipy"),
)
PROGRAM = f"""
import hashlib, json, sys, time


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
import hemp_reader

found = {{}}
for path in sys.argv[1:]:
    hemp_reader.verify(path)
    arrays = hemp_reader.load(path, threads=1)
    hashed = [(name, a.dtype.str, a.shape, hashlib.sha256(a.tobytes()).hexdigest())
              for name, a in arrays.items()]
    found[path] = [hashed, [t.name for t in hemp_reader.inspect(path).tensors]]
print(json.dumps(found))
"""


def in_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as the reader gives it."""
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        tensor = tensor.float()
    if tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)
    return tensor.numpy()


def digests(path: Path) -> list[list[object]]:
    """What `PROGRAM` finds in a file, from tensors of the main package."""
    import hashlib

    found = []
    for name, tensor in hemp_lightning.load(path).items():
        array = in_numpy(tensor)
        sha = hashlib.sha256(array.tobytes()).hexdigest()
        found.append([name, array.dtype.str, list(array.shape), sha])
    return found


def read_alone(paths: list[Path]) -> dict[str, list[list[object]]]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths)],
        env={"PYTHONPATH": str(Path(hemp_reader.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_golden_files_open_with_numpy_alone() -> None:
    found = read_alone(GOLDEN)
    assert len(found) == len(GOLDEN) > 14
    for path in GOLDEN:
        wanted = digests(path)
        assert found[str(path)] == [wanted, [name for name, *_ in wanted]], path


@pytest.mark.slow
def test_results_open_with_numpy_alone() -> None:
    found = read_alone(RESULTS)
    assert len(found) == len(RESULTS) > 4
    for path in RESULTS:
        wanted = digests(path)
        assert found[str(path)] == [wanted, [name for name, *_ in wanted]], path


def test_importing_waits_for_numpy_alone() -> None:
    program = (
        "import sys, numpy; before = set(sys.modules); import hemp_reader; "
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "hemp_reader" in found
    assert not {"numba", "torch", "bz2", "lzma", "concurrent", "asyncio"} & set(found)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_bytes_read_as_the_file_does(path: Path) -> None:
    read, held = hemp_reader.load(path), hemp_reader.load(path.read_bytes())
    wanted = hemp_lightning.load(path)
    assert list(read) == list(held) == list(wanted)
    for name, tensor in wanted.items():
        for array in (read[name], held[name]):
            assert array.tobytes() == in_numpy(tensor).tobytes()
            assert array.shape == tuple(tensor.shape)
        for other, second in wanted.items():
            assert (read[name] is read[other]) == (tensor is second)


def test_every_bit_of_float8_is_the_number_that_torch_has() -> None:
    bits = np.arange(256, dtype=np.uint8)
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        found = hemp_reader.format.storages.array_of(bits, dtype, (256,))
        wanted = torch.from_numpy(bits).view(DTYPES[dtype]).float().numpy()
        np.testing.assert_array_equal(found, wanted)
        signs = np.signbit(found) == np.signbit(wanted)
        assert signs[~np.isnan(wanted)].all()


def test_narrowing_rounds_as_torch_does() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2**32, 200_000, np.uint64).astype(np.uint32).view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.float32([0, -0.0, 3.4e38, 65519.9])])
    for dtype in hemp_reader.format.storages.QUANTIZABLE:
        found = hemp_reader.format.storages.narrowed(values, dtype)
        wanted = torch.from_numpy(values).to(DTYPES[dtype]).view(torch.uint8).numpy()
        assert found.tobytes() == wanted.tobytes()


def test_dtypes_of_ml_dtypes_are_given_where_they_are_asked_for(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    hemp_lightning.save({"w": weights}, tmp_path / "x.hemp", tensors=[])
    found = hemp_reader.load(tmp_path / "x.hemp", ml_dtypes=True)["w"]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.tobytes() == weights.view(torch.uint8).numpy().tobytes()
    assert hemp_reader.load(tmp_path / "x.hemp")["w"].dtype == np.float32


def test_versions_are_one() -> None:
    assert hemp_reader.__version__ == hemp_lightning.__version__


def test_errors_tell_the_place(tmp_path: Path) -> None:
    data = bytearray(GOLDEN[0].read_bytes())
    data[4] = 99
    (tmp_path / "x.hemp").write_bytes(data)
    with pytest.raises(hemp_reader.HempFileError, match=r"x\.hemp: byte 4: expected format versi"):
        hemp_reader.load(tmp_path / "x.hemp")
    with pytest.raises(hemp_reader.HempFileError, match=r"^byte 4: expected format version"):
        hemp_reader.load(bytes(data))
    assert hemp_reader.HempFileError is hemp_lightning.HempFileError
    with pytest.raises(hemp_reader.HempFileError, match="at most `max_bytes`=3 bytes"):
        hemp_reader.load(GOLDEN[0].read_bytes(), max_bytes=3)
