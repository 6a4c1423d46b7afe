"""The README's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


def test_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block = re.search(r"<!-- example -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    exec(compile(block[1], str(README), "exec"), {"__name__": "readme"})
    assert (tmp_path / "net.hemp").stat().st_size > 0


@pytest.mark.parametrize("name", ["install", "quickstart", "test"])
def test_commands_that_ci_calls_are_there(name):
    assert re.search(rf"<!-- {name} -->\n```bash\n(.+)\n```", README.read_text())


def test_length():
    assert len(README.read_text().splitlines()) < 300
