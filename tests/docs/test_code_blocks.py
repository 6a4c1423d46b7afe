"""Code in the README and in the documentation: each page runs from top to bottom."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hemp_lightning import save
from hemp_lightning.cli import main
from hemp_reader.__main__ import main as read

ROOT = Path(__file__).parents[2]
MADE = {"_build", "repository", "reference", "jupyter_execute"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if not MADE & set(page.relative_to(ROOT / "docs").parts)
    # notes on runs: records, with the commands of their day
    and not re.fullmatch(r"docs/results/\w+_\w+\.md", page.relative_to(ROOT).as_posix())
    and "file_format: mystnb" not in page.read_text(encoding="utf-8")  # runs in the build
]
# Tools of other people, and what `.ci/run` runs: not run here.
OTHERS = (
    "git clone",
    "pip install",
    "pre-commit install",
    "python -m venv",
    "python -m pytest",
    "python -m sphinx",
    "python -m http.server",
    "ruff check",
    "ruff format",
    "cd hemp_lightning",
    "source",
)


def blocks(page: Path, language: str) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in found if name == language]


def commands(page: Path) -> list[str]:
    """Lines of the blocks in bash, comments off, continued lines joined."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(" #")[0].split("&&")]
    return [words for part in parts if (words := part.strip())]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def slow_export(page: Path) -> Any:
    """A page as a parameter; exporting a network takes PyTorch ten seconds."""
    marks = [pytest.mark.slow] if page.name == "onnx.md" else []
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_JAVASCRIPT = [page for page in PAGES if blocks(page, "js")]
WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    shared = {"__name__": "page"}
    for number, code in enumerate(blocks(page, "python")):
        if file := re.match(r"# (\w+\.py)\n", code):  # a block that says which file it is
            (tmp_path / file[1]).write_text(code, encoding="utf-8")
        exec(compile(code, f"{page.name}, block {number}", "exec"), shared)


@pytest.mark.parametrize("page", WITH_JAVASCRIPT, ids=names(WITH_JAVASCRIPT))
def test_javascript_of_a_page_runs(page, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node on the path")
    prepare(tmp_path)
    shutil.copy(ROOT / "reader" / "js" / "hemp.js", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "page.js").write_text("\n".join(blocks(page, "js")), encoding="utf-8")
    done = subprocess.run([node, "page.js"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", [slow_export(page) for page in WITH_COMMANDS])
def test_commands_of_a_page_are_known(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    for line in commands(page):
        words = shlex.split(line)
        if words[0] == "hemp" and words[1] != "run":
            shortly = ["--time-limit", "1s"] if "--max-drop" in words else []
            assert main([*words[1:], *shortly]) == 0, (line, capsys.readouterr().err)
        elif words[:3] == ["python", "-m", "hemp_reader"]:
            assert read(words[3:]) == 0, (line, capsys.readouterr().err)
        elif words[:2] == ["python", "run.py"]:
            compose(words[2:])
        elif words[:2] == ["hemp", "run"]:
            compose(words[2:])
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), line
        elif words[0].startswith(".ci/"):
            assert (ROOT / words[0]).is_file(), line
        else:
            assert line.startswith(OTHERS), f"a command that no test knows: {line}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["dataset._target_=mydata.Stripes"], ["task._target_=mytask.Softer"]]
)
def test_files_of_a_reader_run(tmp_path, words):
    """The files that the page on own parts shows, in a folder of their own."""
    pytest.importorskip("hydra")
    text = (ROOT / "docs" / "suite" / "own.md").read_text(encoding="utf-8")
    files = re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```$", text, re.M | re.S)
    assert [name for name, _ in files] == ["mymodel.py", "mydata.py", "mytask.py"]
    for name, code in files:
        (tmp_path / name).write_text(code, encoding="utf-8")
    words = [*words, "model._target_=mymodel.SmallNet", "model.width=4", "trainer=debug"]
    done = subprocess.run(
        [sys.executable, "-m", "hemp_lightning.suite", *words, "hydra.run.dir=run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["model"] == "SmallNet"
    assert results["file_bytes"] == (tmp_path / "run" / "model.hemp").stat().st_size


def prepare(folder: Path) -> None:
    """What the commands of the pages find: a checkpoint, a run folder, a sweep."""
    from safetensors.torch import save_file

    model = torch.nn.Linear(32, 16)
    save_file(model.state_dict(), folder / "model.safetensors")
    save(model, folder / "old.hemp")
    with torch.no_grad():
        model.bias += 1
    save(model, folder / "update.hemp", base=folder / "old.hemp")
    run = folder / "outputs" / "DATE" / "TIME"
    run.mkdir(parents=True)
    (folder / "mynet.py").write_text(
        "import torch\n\ndef build():\n    return torch.nn.Linear(32, 16)\n"
    )
    seeing_model(folder)
    onnx_model(folder / "model.onnx")
    for path in (folder / "model.hemp", folder / "net.hemp", run / "model.hemp"):
        save(model, path)
    job = folder / "sweeps" / "default" / "seed=0"
    job.mkdir(parents=True)
    results = ROOT / "benchmarks" / "results" / "lenet5_mnist" / "results_seed0.json"
    shutil.copy(results, job / "results.json")


def seeing_model(folder: Path) -> None:
    """A network of small images, its code and its checkpoint, and a folder of images."""
    import numpy as np
    from PIL import Image

    code = "nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))"
    (folder / "mymodel.py").write_text(f"from torch import nn\n\ndef build():\n    return {code}\n")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "images").mkdir()
    draw = np.random.default_rng(0)
    for number in range(20):
        pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")


def onnx_model(path: Path) -> None:
    """A product of matrices, where `onnx` is installed."""
    try:
        from onnx import TensorProto, helper, save_model
    except ModuleNotFoundError:
        return
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor("w", TensorProto.FLOAT, [32, 16], torch.randn(512).tolist())],
    )
    save_model(helper.make_model(graph), str(path))


def compose(words: list[str]) -> None:
    """Compose the configuration that the words ask for; of a sweep, that of its first job.

    The words pass through the suite's own door, so a setting that does not exist is found.
    """
    hydra = pytest.importorskip("hydra")
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from hemp_lightning.suite.words import CONF, prepared

    words = [re.sub(r"^--config-dir$", "-cd", word) for word in words]
    folders = [value for flag, value in pairwise(words) if flag == "-cd"]
    words = [word for word in words if word not in ("-cd", "--cfg", "job", *folders)]
    if "-m" in words:
        words = [word.split(",")[0] for word in words if word != "-m"]
    plugins = {word.split("=")[1].split("_")[0] for word in words if word.startswith("launcher=")}
    plugins |= {"optuna"} if "sweep=optuna" in words else set()
    known = " ".join(plugin.__module__ for plugin in Plugins.instance().discover())
    if any(name not in known for name in plugins) or folders:
        return  # a plugin that is not installed, or the reader's own folder
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", prepared(words))
    for word in words:
        key, _, value = word.partition("=")
        if "." in key and not key.startswith("hydra."):
            assert str(OmegaConf.select(config, key)).lower() == value.lower(), word
