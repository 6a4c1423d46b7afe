"""run.py from the outside: files, results, decoded accuracy, seeds, sweeps, and error lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import omegaconf
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hemp_lightning import inspect, load, load_into
from hemp_lightning.suite import command
from hemp_lightning.suite.classifier import accuracy
from hemp_lightning.suite.datasets import Digits
from hemp_lightning.suite.error_reporting import USER_ERRORS, one_line
from hemp_lightning.suite.models import build
from hemp_lightning.suite.parts import new_data, new_network
from hemp_lightning.suite.words import CONF, prepared

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUICK = ["trainer=debug", "callbacks=none", "logger=none"]


def environment() -> dict[str, str]:
    """Of a process that finds this package, whatever is installed."""
    found = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    found.pop("HYDRA_FULL_ERROR", None)
    return found


def run(
    folder: Path, *words: str, code: int = 0, where: str = "hydra.run.dir"
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words, f"{where}={folder}"],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env=environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def here(folder: Path, *words: str, code: int = 0, where: str = "hydra.run.dir") -> Said:
    """The same command in this process, which costs no new interpreter."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            ended = command.main([*words, f"{where}={folder}"])
        except SystemExit as end:
            ended = end.code
    said = Said(out.getvalue(), err.getvalue())
    assert ended == code, said
    return said


class Said(NamedTuple):
    """What a command has printed."""

    stdout: str
    stderr: str


def composed(folder: Path, *words: str) -> DictConfig:
    """The configuration that a command line makes."""
    ready = [*prepared(words), f"hydra.runtime.output_dir={folder}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ready, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with omegaconf.open_dict(config):
        del config["hydra"]
    return config


def in_process(folder: Path, *words: str) -> dict:
    """The same without a new interpreter: what the command does with a composed config."""
    folder.mkdir(exist_ok=True)
    return command.run(composed(folder, *QUICK, *words), folder)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


KEYS = """model dataset seed order num_levels lambda_entropy float_accuracy accuracy float_bytes
file_bytes compression_ratio bits_per_weight entropy_bits_per_weight fit_seconds encode_seconds
decode_seconds peak_memory_bytes""".split()


def test_end_to_end_and_the_file_says_what_the_results_say(tmp_path: Path) -> None:
    done = run(tmp_path / "a", "trainer=debug")
    found = results(tmp_path / "a")
    assert set(KEYS) <= set(found)
    assert (found["model"], found["dataset"], found["order"]) == ("lenet5", "digits", 2)
    assert found["float_bytes"] == 4 * 431_080
    file = tmp_path / "a" / "model.hemp"
    assert found["file_bytes"] == file.stat().st_size
    assert found["compression_ratio"] == pytest.approx(4 * 431_080 / file.stat().st_size)
    digits = Digits(image_size=28)
    digits.setup()
    network = load_into(build("lenet5"), file)
    assert accuracy(network, digits.test_dataloader()) == pytest.approx(found["accuracy"])
    levels = {t.name: t.num_levels for t in inspect(file).tensors if t.name.endswith("weight")}
    assert len(levels) == 4 and set(levels.values()) <= set(range(1, 8))
    assert (tmp_path / "a" / "weights.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "a" / "csv" / "metrics.csv").is_file()
    assert "model.hemp, decoded" in done.stdout


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        in_process(tmp_path / name, f"seed={seed}")
    files = [(tmp_path / name / "model.hemp").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_sweep_skips_what_is_done_and_survives_a_crash(tmp_path: Path) -> None:
    words = ["-m", *QUICK, "hemp.order=0,1,3"]
    sweep = tmp_path / "s"
    first = here(sweep, *words, where="hydra.sweep.dir", code=1)
    folders = {path.parent.name for path in sweep.glob("*/results.json")}
    assert len(folders) == 2  # order 0 is an error, the other two are done
    assert "job failed" in first.stdout and "`order`" in first.stdout + first.stderr
    assert len(list(sweep.glob("*/error.txt"))) == 1
    times = {path: path.stat().st_mtime_ns for path in sweep.glob("*/results.json")}
    second = here(sweep, *words, where="hydra.sweep.dir", code=1)
    assert second.stdout.count("already done") == 2
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("*/results.json")} == times
    assert "1 job of the sweep failed" in first.stderr
    assert "Traceback" in next(sweep.glob("*/error.txt")).read_text()


@pytest.mark.parametrize("method", ["uniform", "lsq", "none"])
def test_baselines_end_to_end(tmp_path: Path, method: str) -> None:
    word = "hemp=none" if method == "none" else f"quantization={method}"
    found = in_process(tmp_path / "a", word)
    assert found["method"] == {"none": "lloyd_max"}.get(method, method)
    assert found["file_bytes"] == (tmp_path / "a" / "model.hemp").stat().st_size
    assert 0.0 <= found["accuracy"] <= 1.0


@pytest.mark.parametrize(
    ("word", "name"), [("hemp=none", "lloyd_max"), ("quantization=lsq", "lsq")]
)
def test_an_experiment_gives_way_to_another_method(tmp_path: Path, word: str, name: str) -> None:
    """Its settings for HEMP are left over then, and mean nothing."""
    words = ["experiment=lenet300_mnist", "dataset=digits", "float_epochs=1", "epochs=1", word]
    assert in_process(tmp_path / "a", *words)["method"] == name


def test_channels_last_is_where_the_network_lies_and_no_more(tmp_path: Path) -> None:
    found = {}
    for last in (False, True):
        config = composed(tmp_path, "trainer=debug", f"channels_last={last}")
        data = new_data(config)
        torch.manual_seed(0)
        found[last] = new_network(config, data)
    weights = {last: network.state_dict() for last, network in found.items()}
    assert all(torch.equal(weights[True][key], weights[False][key]) for key in weights[True])
    lies = [w.is_contiguous(memory_format=torch.channels_last) for w in weights[True].values()]
    assert sum(w.ndim == 4 for w in weights[True].values()) == sum(lies) > 0
    assert in_process(tmp_path / "run", "channels_last=true")["file_bytes"] > 0


def test_compile_is_for_the_network_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **options: compiled.append((module, options))
    )
    found = in_process(tmp_path / "run", "compile=true")
    assert len(compiled) == 1
    network, options = compiled[0]
    assert options == {"dynamic": False}
    decoded = load(tmp_path / "run" / "model.hemp")
    assert list(network.state_dict()) == list(decoded)  # its names are the plain ones
    assert found["file_bytes"] > 0


@pytest.mark.parametrize("order", [1, 3, 4])
def test_every_order_runs(tmp_path: Path, order: int) -> None:
    assert in_process(tmp_path / "a", f"hemp.order={order}", "model=lenet300")["order"] == order


@pytest.mark.parametrize("method", ["hemp=default", "quantization=deep_compression"])
def test_pruned_weights_are_exactly_zero_in_the_file(tmp_path: Path, method: str) -> None:
    in_process(tmp_path / "a", method, "pruning=magnitude", "pruning.share=0.8")
    weights = [t for t in load(tmp_path / "a" / "model.hemp").values() if t.ndim > 1]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert zeros >= 0.8 - 1e-5
    assert any(bool((w != 0).any()) for w in weights)


@pytest.mark.parametrize(
    "words",
    [
        ["hemp.start_epoch=0"],
        ["quantization=deep_compression", "quantization.start_epoch=0"],
        ["quantization=lsq", "quantization.start_epoch=0"],
        ["pruning=magnitude", "pruning.start_epoch=0"],
    ],
)
def test_a_checkpoint_starts_where_it_ended(tmp_path: Path, words: list[str]) -> None:
    torch.manual_seed(0)
    network = build("lenet300")
    torch.save(network.state_dict(), tmp_path / "start.pt")
    start = ["model=lenet300", f"model.checkpoint={tmp_path / 'start.pt'}"]
    found = in_process(tmp_path / "a", *words, *start)
    digits = Digits(image_size=28)
    digits.setup()
    wanted = accuracy(network, digits.test_dataloader())
    assert found["float_accuracy"] == pytest.approx(wanted, abs=1e-6)


def test_a_teacher_is_believed_more_than_the_labels(tmp_path: Path) -> None:
    teacher = build("lenet300")
    for weights in teacher.parameters():
        torch.nn.init.zeros_(weights)
    list(teacher.parameters())[-1].data[3] = 20  # every image is a three
    torch.save(teacher.state_dict(), tmp_path / "threes.pt")
    words = ["model@teacher=lenet300", f"teacher.checkpoint={tmp_path / 'threes.pt'}"]
    words += ["distillation=1", "temperature=1", "float_epochs=0", "epochs=2"]
    found = in_process(tmp_path / "a", *words, "hemp.lambda_entropy=0")
    digits = Digits(image_size=28)
    digits.setup()
    labels = torch.cat([labels for _, labels in digits.test_dataloader()])
    assert found["accuracy"] == pytest.approx((labels == 3).float().mean().item(), abs=0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model@teacher=lenet300", "distillation=0.5"], "teacher.checkpoint=FILE"),
        (["model@teacher=lenet300", "teacher.checkpoint=x.pt"], "`distillation`"),
        (
            ["model@teacher=lenet300", "teacher.checkpoint=x.pt", "distillation=0.5"],
            "`teacher.checkpoint`",
        ),
        (
            [
                "model@teacher=lenet300",
                "teacher.checkpoint=x.pt",
                "distillation=0.5",
                "teacher.num_classes=12",
            ],
            "`teacher.num_classes`",
        ),
        (["hemp.order=0"], "`order`"),
        (["hemp.num_levels=1"], "`num_levels`"),
        (["hemp.lambda_entropy=-1"], "`lambda_entropy`"),
        (["hemp.tensors=[nothing.here]"], "nothing.here"),
        (["dataset=mnist", "dataset.root=no/such"], "dataset.download=true"),
        (["dataset=imagefolder", "dataset.root=no/such"], "dataset.root=FOLDER"),
        (["model=vgg11_bn"], "32x32"),
        (["model.num_classes=5"], "`model.num_classes`"),
        (["model.checkpoint=no.pt"], "`model.checkpoint`"),
        (["model=resnet20", "model.pretrained=true"], "model.checkpoint"),
        (["hemp.start_epoch=99"], "`start_epoch`"),
        (["quantization=uniform", "hemp=default"], "hemp=none"),
        (["dataset.val_fraction=2"], "`dataset.val_fraction`"),
        (["coder.name=zip"], "zip"),
        (["hemp.order=two"], "`hemp.order`: expected a number; found 'two'"),
        (["epochs=x"], "`epochs`"),
        (["optimizer.lr=fast"], "`optimizer.lr`"),
        (["pruning=magnitude", "pruning.share=much"], "`pruning.share`"),
        (["hemp.target_bytes=2kB"], "`hemp.target_bytes`"),
        (["dataset.batch_size=big"], "`dataset.batch_size`"),
    ],
)
def test_a_mistake_is_found_before_any_training(
    tmp_path: Path, words: list[str], said: str
) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        in_process(tmp_path / "a", *words)
    assert said in one_line(caught.value)
    assert not (tmp_path / "a" / "model.hemp").exists()
    assert not list((tmp_path / "a").glob("results.json*"))


@pytest.mark.parametrize("words", [["model=alexnet"], ["hemp.ordr=3"], ["hemp.order=0"]])
def test_a_mistake_is_one_line_on_the_screen(tmp_path: Path, words: list[str]) -> None:
    done = here(tmp_path / "a", *QUICK, *words, code=1)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and words[0].split("=")[0].split(".")[-1] in lines[0]
    assert "Traceback" not in done.stderr + done.stdout
