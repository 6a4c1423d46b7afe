"""The package as it is published: built, checked, installed, and run from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import hemp_lightning

ROOT = Path(__file__).parents[1]
LEAVES = {str(leaf.relative_to(ROOT / "conf")) for leaf in (ROOT / "conf").rglob("*.yaml")}
SUITE = ("hydra", "omegaconf", "torchvision", "wandb", "sklearn", "matplotlib", "plotly", "rich")


def said(*command: str, cwd: Path = ROOT) -> str:
    """What a command prints; it finds no package of ours but an installed one."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    said(sys.executable, "-m", "build", "--no-isolation", "-o", str(folder), str(ROOT))
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the packages of this one behind it."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder)
    python = str(folder / "bin" / "python")
    (wheel,) = built.glob("*.whl")
    said(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", str(wheel))
    site = Path(
        said(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    others = [path for path in sys.path if path.endswith("-packages")]
    (site / "others.pth").write_text("\n".join(others))  # behind its own: the wheel comes first
    return folder / "bin"


@pytest.mark.slow
def test_wheel_and_sdist_hold_all_of_conf(built: Path) -> None:
    pytest.importorskip("twine")
    said(sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir()))
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert f"-{hemp_lightning.__version__}-" in wheel.name
    inside = "hemp_lightning/suite/conf/"
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.removeprefix(inside) for n in names if n.startswith(inside)} == LEAVES
    with tarfile.open(sdist) as archive:
        files = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    assert {f"{inside}{leaf}" for leaf in LEAVES} <= files


@pytest.mark.slow
def test_the_installed_command_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    hemp = str(installed / "hemp")
    where = "import hemp_lightning; print(hemp_lightning.__file__)"
    assert said(str(installed / "python"), "-c", where, cwd=tmp_path).startswith(
        str(installed.parent)
    )
    (tmp_path / "mymodel.py").write_text(
        "from torch import nn\n\nclass SmallNet(nn.Sequential):\n"
        "    def __init__(self, num_classes, image_size, width):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(image_size**2, width),\n"
        "                         nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    words = ["model._target_=mymodel.SmallNet", "model.width=16", "hydra.run.dir=out"]
    shown = said(hemp, "run", "trainer=debug", *words, cwd=tmp_path)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["model"] == "SmallNet" and "model.hemp, decoded" in shown
    assert "1.weight" in said(hemp, "inspect", "out/model.hemp", cwd=tmp_path)
    said(hemp, "report", "out", "-o", "report", cwd=tmp_path)
    assert list((tmp_path / "report").iterdir())
    groups = said(hemp, "run", "--help", cwd=tmp_path)
    assert "model         the network" in groups and "resnet20" in groups


def test_the_core_does_without_the_packages_of_the_suite(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({SUITE!r}))\n"
        "import torch, hemp_lightning, hemp_lightning.cli\n"
        "network = torch.nn.Linear(4, 3)\n"
        "hemp_lightning.save(network, 'a.hemp')\n"
        "hemp_lightning.load_into(torch.nn.Linear(4, 3), 'a.hemp')\n"
        "print(hemp_lightning.cli.main(['run', 'trainer=debug']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip().endswith("2"), done.stdout + done.stderr
    assert "`hemp run` needs the package" in done.stderr
    assert hemp_lightning.load(tmp_path / "a.hemp")["weight"].shape == torch.Size([3, 4])
