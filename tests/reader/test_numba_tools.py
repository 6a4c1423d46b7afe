"""Machine code in numba's cache is that of the sources, of all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hemp_lightning
import hemp_reader

ROOMS = ("coding",)
CONTEXT = "hemp_reader/coding/context"
PROGRAM = """
import numpy as np
from hemp_reader.coding.context import counter_loop
from hemp_reader.coding.context.counter_loop import code_fast
from hemp_lightning.coding.context.fast_coder import FastCoder
from hemp_reader.coding.context.options import Options
from hemp_lightning.coding.context.payload import encode_with

indices = np.arange(40, dtype=np.uint8).reshape(5, 8) % 7 // 3
print(encode_with(indices, 3, Options(centre=1), code_fast).hex())
stats = getattr(counter_loop._LOOPS[1], "stats", None)
print(sum(stats.cache_hits.values()) if stats else None)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the coders, without what the package's own `__init__` imports."""
    source = Path(hemp_lightning.__file__).parent
    copy = tmp_path / "hemp_lightning"
    copy.mkdir()
    for name in ("errors.py", "version.py"):
        shutil.copy(source / name, copy)
    for name in ROOMS:
        shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").touch()
    reader = Path(hemp_reader.__file__).parent
    shutil.copytree(reader, tmp_path / "hemp_reader", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def coded(package: Path, **environment: str) -> tuple[str, str]:
    """What `PROGRAM` prints with that package: bytes in hex, and loops taken from the cache."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")},
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    found, hits = run.stdout.split()
    return found, hits


def replace(path: Path, old: str, new: str) -> None:
    """Change a source file, which keeps its size and its time: only the content differs."""
    text, times = path.read_text(), path.stat()
    assert text.count(old) == 1 and len(old) == len(new)
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.slow
def test_a_changed_constant_of_another_file_runs(package: Path) -> None:
    before, hits = coded(package)
    assert hits == "0"
    assert coded(package) == (before, "1")  # the next process finds the machine code
    replace(
        package.parent / CONTEXT / "model_tables.py",
        "(1 << 31) | 1)",
        "(3 << 30) | 1)",
    )
    after, hits = coded(package)
    assert hits == "0" and after != before
    assert after == coded(package, NUMBA_DISABLE_JIT="1")[0]


@pytest.mark.slow
def test_a_changed_helper_of_another_file_runs(package: Path, tmp_path: Path) -> None:
    """Also from a folder of the user's own, for packages that cannot be written to."""
    cache = str(tmp_path / "cache")
    before, _ = coded(package, NUMBA_CACHE_DIR=cache)
    assert any(Path(cache).rglob("*.nbi")) and not any(package.parent.glob("hemp_*/**/*.nbi"))
    replace(package.parent / CONTEXT / "range_coder.py", "low >= zero)", "low >  zero)")
    assert coded(package, NUMBA_CACHE_DIR=cache) == (before, "0")  # only decoding takes that path


def test_stamps_follow_imports_and_nothing_else(package: Path) -> None:
    program = """
from hemp_reader.numba_tools import source_stamp
for name in ("counter_loop", "mixing_loop"):
    print(source_stamp("hemp_reader.coding.context." + name))
"""

    def stamps() -> list[str]:
        command = [sys.executable, "-c", program]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        return subprocess.run(
            command, env=environment, cwd=package.parent, capture_output=True, check=True
        ).stdout.split()

    before = stamps()
    replace(package.parent / CONTEXT / "neighbours.py", "NUM_INPUTS = 8", "NUM_INPUTS = 9")
    kernel = stamps()
    assert kernel[0] == before[0] and kernel[1] != before[1]
    replace(
        package.parent / CONTEXT / "model_tables.py",
        "COUNT_LIMIT = 1020",
        "COUNT_LIMIT = 1021",
    )
    table = stamps()
    assert table[0] != before[0] and table[1] != kernel[1]
    replace(
        package / "coding/context/coder.py", "Adaptive context mixing", "Adaptive context Mixing"
    )
    assert stamps() == table
