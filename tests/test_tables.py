"""What is committed is what the results files say, and `tables.py --check` fails if not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"
NETWORKS = sorted(path.parent.name for path in (ROOT / RESULTS).glob("*/manifest.yaml"))


def check(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command of this checkout on another folder."""
    command = [sys.executable, str(ROOT / "benchmarks/tables.py"), "--root", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """README and the results, to be changed at will."""
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS)
    return tmp_path


def test_what_is_committed_is_what_the_results_files_say() -> None:
    done = check(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_figure_is_seen_where_it_stands(copy: Path) -> None:
    path = copy / RESULTS / "lenet5_mnist/results_seed0.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({**results, "file_bytes": results["file_bytes"] + 300}))
    done = check(copy, "--check")
    assert done.returncode == 1
    for name in ("README.md", "lenet5_mnist/RESULTS.md", "results/README.md", "headline.png"):
        assert f"{name} differs" in done.stdout
    assert "resnet20" not in done.stdout
    before = (copy / "README.md").read_text()
    assert check(copy).returncode == 0  # writes
    assert (copy / "README.md").read_text() != before
    assert check(copy, "--check").returncode == 0


def test_a_figure_changed_by_hand_is_seen(copy: Path) -> None:
    page = copy / RESULTS / "resnet56_cifar10_jpeg/RESULTS.md"
    page.write_text(page.read_text().replace("67,778 B", "67,777 B"))
    done = check(copy, "--check")
    assert done.returncode == 1
    assert done.stdout.count("differs") == 1 and "67,778 B" in done.stdout


def test_a_changed_figure_of_the_sweep_is_seen(copy: Path) -> None:
    path = copy / RESULTS / "sweep_lenet5_mnist/results.csv"
    path.write_text(path.read_text().replace(",1792,", ",1793,"))
    done = check(copy, "--check")
    assert done.returncode == 1 and "sweep_lenet5_mnist/RESULTS.md differs" in done.stdout


def test_a_changed_figure_of_the_language_model_is_seen(copy: Path) -> None:
    path = copy / RESULTS / "characters/results_lambda01_seed0.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({**results, "value": results["value"] + 0.01}))
    done = check(copy, "--check")
    assert done.returncode == 1
    assert done.stdout.count("differs") == 1 and "characters/RESULTS.md differs" in done.stdout


def test_a_missing_picture_is_seen(copy: Path) -> None:
    (copy / RESULTS / "headline.png").unlink()
    done = check(copy, "--check")
    assert done.returncode == 1 and "headline.png differs" in done.stdout


def test_a_results_file_that_no_recipe_names_is_refused(copy: Path) -> None:
    folder = copy / RESULTS / "lenet5_mnist"
    shutil.copy(folder / "results_seed0.json", folder / "results_other_seed0.json")
    done = check(copy, "--check")
    assert done.returncode != 0 and "results_other_seed0.json" in done.stderr


def test_a_lost_marker_is_refused(copy: Path) -> None:
    page = copy / RESULTS / "lenet5_mnist/RESULTS.md"
    page.write_text(page.read_text().replace("<!-- table term -->", ""))
    done = check(copy, "--check")
    assert done.returncode != 0 and "must hold the tables" in done.stderr


@pytest.mark.parametrize("name", ["lenet5_mnist", "resnet32_cifar10_jpeg"])
def test_the_readme_says_mean_and_deviation(name: str) -> None:
    """Against the files by hand, without what the command uses."""
    files = sorted((ROOT / RESULTS / name).glob("results_seed[0-9].json"))
    runs = [json.loads(path.read_text()) for path in files]
    sizes = [run["file_bytes"] for run in runs]
    accuracies = [100 * run["accuracy"] for run in runs]
    rows = re.findall(rf"^\| \[.*?\]\(.*{name}.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(runs) == 3 and len(rows) == 1
    assert f"| {mean(sizes):,.0f} ± {stdev(sizes):,.0f} B |" in rows[0]
    assert f"| {mean(accuracies):.2f} ± {stdev(accuracies):.2f} % |" in rows[0]


@pytest.mark.parametrize("name", ["lenet5_mnist", "lenet300_mnist", "resnet56_cifar10_jpeg"])
def test_nncodec_is_compared_at_our_accuracy(name: str) -> None:
    """The multiple in the README, by NumPy's interpolation over the best of the curves."""
    import numpy as np

    folder = ROOT / RESULTS / name
    runs = [json.loads(path.read_text()) for path in folder.glob("results_seed[0-9].json")]
    target = mean(run["accuracy"] for run in runs)
    curves: dict[str, list[tuple[float, float]]] = {}
    for path in folder.glob("nncodec_*.json"):
        run = json.loads(path.read_text())
        curves.setdefault(path.stem.split("_qp")[0], []).append(
            (run["accuracy"], run["file_bytes"])
        )
    wanted = min(
        float(np.interp(target, *zip(*sorted(points), strict=True)))
        for points in curves.values()
        if max(points)[0] >= target
    ) / mean(run["file_bytes"] for run in runs)
    row = next(
        r for r in (ROOT / "README.md").read_text().splitlines() if f"]({RESULTS}/{name}" in r
    )
    assert float(row.split("|")[-2]) == pytest.approx(wanted, rel=0.02)


CLAIM = re.compile(r"([\d,]+) bytes(?: and keeps| at) ([\d.]+) %")


@pytest.mark.parametrize("page", ["README.md", *(f"{RESULTS}/{n}/RESULTS.md" for n in NETWORKS)])
def test_figures_in_prose_are_those_of_a_recipe(page: str) -> None:
    """`N bytes at X %`: the mean of one recipe, the bytes to one part in a hundred."""
    folders = NETWORKS if page == "README.md" else [Path(page).parent.name]
    means: dict[str, list[tuple[float, float]]] = {}
    for path in (
        path for name in folders for path in (ROOT / RESULTS / name).glob("results*.json")
    ):
        run = json.loads(path.read_text())
        key = f"{path.parent.name}/{path.stem.rsplit('seed', 1)[0]}"
        means.setdefault(key, []).append((run["file_bytes"], 100 * run["accuracy"]))
    points = [[mean(numbers) for numbers in zip(*runs, strict=True)] for runs in means.values()]
    text = (ROOT / page).read_text()
    claims = CLAIM.findall(text.split("\n## ")[0])  # above the first section
    assert claims
    for count, accuracy in claims:
        size = float(count.replace(",", ""))
        assert any(
            abs(size / found - 1) < 0.01 and abs(float(accuracy) - percent) < 0.0051
            for found, percent in points
        ), f"{page}: {count} bytes at {accuracy} %"
