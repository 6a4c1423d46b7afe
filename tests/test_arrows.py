"""The arrows between the rooms: one that is turned breaks its contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COMMAND = "from importlinter.cli import lint_imports_command as main; main()"

TURNED = {
    "Rooms stand on the rooms below them": ("coding/coder.py", "hemp_lightning.file.save"),
    "The file knows nothing of the entropy term": ("file/load.py", "hemp_lightning.entropy"),
    "The format is the format, and nothing of the file above it": (
        "file/format/files.py",
        "hemp_lightning.file.write",
    ),
    "The reader needs NumPy alone": ("../reader/hemp_reader/errors.py", "torch"),
    "The core needs none of the suite's packages": ("ground/threads.py", "hydra"),
    "Reading and quantizing know nothing of Lightning": ("quantization/assign.py", "lightning"),
}
"""For each contract, a file and what it must not import."""


def contracts(folder: Path) -> dict[str, str]:
    """What `lint-imports` says of each contract of the package in a folder."""
    paths = [str(folder), str(folder / "reader")]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--no-cache"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = dict(re.findall(r"^(.*\S) (KEPT|BROKEN)", done.stdout, re.MULTILINE))
    assert (done.returncode == 0) == (set(said.values()) == {"KEPT"}), done.stdout + done.stderr
    return said


@pytest.mark.slow
def test_a_turned_arrow_breaks_its_contract(tmp_path: Path) -> None:
    pytest.importorskip("importlinter")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "hemp_lightning"
    skipped = shutil.ignore_patterns("__pycache__", "conf", "*.nbi", "*.nbc")
    shutil.copytree(ROOT / "hemp_lightning", package, ignore=skipped)
    reader = Path("reader") / "hemp_reader"
    shutil.copytree(ROOT / reader, tmp_path / reader, ignore=skipped)
    assert contracts(tmp_path) == dict.fromkeys(TURNED, "KEPT")
    for file, name in TURNED.values():
        with (package / file).open("a") as stream:
            stream.write(f"\nimport {name}\n")
    assert contracts(tmp_path) == dict.fromkeys(TURNED, "BROKEN")
