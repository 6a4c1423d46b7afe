"""The documentation builds without a warning, and every public name is in its reference."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hemp_lightning

ROOT = Path(__file__).parents[2]
PACKAGES = ("entropy", "quantization", "coding", "file", "training", "calibration", "suite")

if any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_nb", "furo")):
    pytest.skip("pip install -e '.[docs]'", allow_module_level=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build without the pages that run: those are run by `.ci/run`."""
    target = tmp_path_factory.mktemp("docs")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-D", "nb_execution_mode=off"]
    words += ["-D", "suppress_warnings=myst.header,myst-nb.lexer"]  # a kernel names the language
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, str(ROOT / "docs"), str(target)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return target, done


def public() -> set[str]:
    """Full names of all that `__all__` of a package of the library lists."""
    found = {f"hemp_lightning.{name}" for name in hemp_lightning.__all__}
    for info in pkgutil.walk_packages(hemp_lightning.__path__, "hemp_lightning."):
        if info.ispkg and info.name.split(".")[1] in PACKAGES:
            module = importlib.import_module(info.name)
            found |= {f"{info.name}.{name}" for name in getattr(module, "__all__", [])}
    return {name for name in found if not name.endswith("__")}


@pytest.mark.slow
def test_builds_without_warnings(built):
    _, done = built
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(built):
    from sphinx.util.inventory import InventoryFile

    with (built[0] / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", os.path.join)
    documented = {
        name for kind, names in dict(inventory).items() if "py:" in kind for name in names
    }
    assert len(public()) > 30
    assert sorted(public() - documented) == []
    assert "hemp_lightning.file.format" not in documented  # what is inside stays inside


@pytest.mark.slow
def test_links_to_torch_need_no_network(built):
    page = (built[0] / "reference" / "entropy.html").read_text(encoding="utf-8")
    assert "https://docs.pytorch.org/docs/stable/tensors.html#torch.Tensor" in page
