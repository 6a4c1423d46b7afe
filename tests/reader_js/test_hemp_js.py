"""The reader in JavaScript, run by Node, against the package."""

from __future__ import annotations

import inspect
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from hemp_lightning import HempFileError, load, save
from tests.file.test_mutations import mutate, reseal

ROOT = Path(__file__).parents[2]
READER = ROOT / "reader" / "js"
COMMITTED = sorted((ROOT / "tests" / "data").glob("*.hemp"))
COMMITTED += sorted((ROOT / "benchmarks").glob("**/*.hemp"))
FOUND_AS_FLOAT32 = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def node(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs node on the path")
    command = [program, *words]
    return subprocess.run(
        command, cwd=READER, env=os.environ | env, capture_output=True, text=True, timeout=300
    )


def array_bytes(tensor: torch.Tensor) -> bytes:
    """What the typed array of the reader in JavaScript holds."""
    if str(tensor.dtype).removeprefix("torch.") in FOUND_AS_FLOAT32:
        tensor = tensor.float()
    elif tensor.dtype == torch.complex32:
        tensor = torch.view_as_real(tensor).float()
    elif tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def case(
    name: str, path: Path, folder: Path, max_bytes: int | None = None, base: Path | None = None
) -> dict[str, Any]:
    """The file at `path` with what the package reads in it, or that it refuses."""
    found: dict[str, Any] = {"name": name, "file": str(path)}
    if max_bytes is not None:
        found["maxBytes"] = 8 * max_bytes  # float8 is four times as large there
    options: dict[str, Any] = {}  # an update is read with its base
    if base is not None:
        found["base"] = str(base)
        options["base"] = base
    try:
        state = load(path, max_bytes=max_bytes, **options)
    except HempFileError as error:
        assert "max_bytes" not in str(error)
        return found | {"refused": True}
    parts = [array_bytes(tensor) for tensor in state.values()]
    (folder / f"{name}.bin").write_bytes(b"".join(parts))
    tensors = [
        {
            "name": key,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "size": len(part),
        }
        for (key, tensor), part in zip(state.items(), parts, strict=True)
    ]
    return found | {"tensors": tensors}


def passes(cases: list[dict[str, Any]], folder: Path) -> None:
    (folder / "cases.json").write_text(json.dumps(cases))
    done = node("--test", "test/cases.test.js", HEMP_CASES=str(folder))
    assert done.returncode == 0, "\n".join(
        line for line in done.stdout.splitlines() if not line.startswith(("ok ", "    ok"))
    )
    assert f"# pass {len(cases) + 1}\n" in done.stdout


def test_its_own_tests_pass():
    done = node("--test", "test/hemp.test.js")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_committed_files_have_the_same_bits(tmp_path):
    assert len(COMMITTED) >= 26
    passes(
        [case("_".join(p.relative_to(ROOT).parts), p, tmp_path) for p in COMMITTED],
        tmp_path,
    )


@pytest.mark.filterwarnings("ignore:the levels are far")
@pytest.mark.parametrize(
    "coder", ["raw", "tuples", "context", "lzma", "bz2", "zlib", "fast", "frequency"]
)
def test_every_coder_at_many_shapes(tmp_path, coder):
    """Levels from 2 to 700 and one to five axes, so that every branch of a coder is taken."""
    generator = torch.Generator().manual_seed(3)
    cases = []
    shapes = [(6000,), (40, 60), (16, 3, 3, 3), (5, 7, 4), (3, 4, 2, 5, 3), (1, 300), (300, 1)]
    for number, (levels, spread) in enumerate([(2, 0.4), (5, 0.1), (33, 1), (300, 4), (5000, 9)]):
        state = {}
        for shape in shapes:
            weights = spread * torch.randn(shape, generator=generator)
            weights[torch.rand(shape, generator=generator) < 0.3 * (number % 3)] = 0
            state["x".join(map(str, shape))] = weights
        path = tmp_path / f"{number}.hemp"
        options = {"order": 3, "scan": "kernel"} if coder == "tuples" and levels < 300 else {}
        save(state, path, num_levels=levels, tensors="all", coder=coder, **options)
        cases.append(case(f"{coder}_{levels}", path, tmp_path))
    passes(cases, tmp_path)


@pytest.mark.skipif(
    "base" not in inspect.signature(save).parameters, reason="this package writes no updates"
)
@pytest.mark.filterwarnings("ignore:the levels are far")
@pytest.mark.parametrize("moved", [0, 0.02, 1])
def test_updates_with_their_base(tmp_path, moved):
    """Unchanged tensors, ones that moved a little, and others; also without the right base."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    before = {
        "conv.weight": noise(16, 8, 3, 3) * torch.linspace(1, 0.1, 9).view(3, 3),
        "fc.weight": noise(40, 30),
        "fc.bias": noise(40),
        "half": noise(33).half(),
        "number": torch.tensor(12345),
        "small": torch.arange(50, dtype=torch.int8),
        "mask": noise(9) > 0,
        "double": noise(70).double(),
        "complex": noise(5) * (1 + 2j),
    }
    after = {name: tensor.clone() for name, tensor in before.items()}
    if moved:
        for tensor in after.values():
            if tensor.is_floating_point():
                tensor += moved * noise(*tensor.shape).to(tensor.dtype)
        after["number"] += 3
        after["small"] -= 2
    cases = []
    for number, options in enumerate(
        (
            {"num_levels": 16},
            {},
            {"num_levels": 300, "float_dtype": "steps"},
            {"num_levels": 30, "transform": "dct"},
        )
    ):
        base, update = tmp_path / f"base{number}.hemp", tmp_path / f"update{number}.hemp"
        save(before, base, **options)
        save(after, update, base=base, **options)
        cases.append(case(f"update{number}", update, tmp_path, base=base))
        cases.append(case(f"alone{number}", update, tmp_path))
        other = tmp_path / f"base{(number + 1) % 2}.hemp"
        if number:
            cases.append(case(f"other{number}", update, tmp_path, base=other))
    assert sum("tensors" in found for found in cases) >= 4
    assert sum("refused" in found for found in cases) >= 3
    passes(cases, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_mutants_are_read_or_refused_alike(tmp_path):
    """Damage behind right checksums: the two readers agree on every file."""
    rng = random.Random(36)
    originals = [path.read_bytes() for path in COMMITTED if path.stat().st_size < 2048]
    cases = []
    for number in range(800):
        mutant = mutate(rng.choice(originals), rng)
        path = tmp_path / f"mutant{number}.hemp"
        path.write_bytes(reseal(mutant))
        try:
            cases.append(case(f"mutant{number}", path, tmp_path, max_bytes=2**24))
        except AssertionError:  # too large for either; how large differs
            continue
    assert 25 < sum("tensors" in case for case in cases) < 600
    passes(cases, tmp_path)
