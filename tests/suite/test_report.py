"""The report: what it gathers, the Pareto front against brute force, and the page in a browser."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from hemp_lightning.suite.report import main, write_report
from hemp_lightning.suite.runs import (
    float_networks,
    front_of,
    over_seeds,
    pareto_front,
    read_runs,
    smallest,
)


def result(**changes: object) -> dict[str, Any]:
    plain = {
        "model": "lenet5",
        "dataset": "mnist",
        "method": "hemp",
        "pruning": "none",
        "coder": "context",
        "order": 2,
        "num_levels": 7,
        "lambda_entropy": 4.0,
        "seed": 0,
        "float_accuracy": 0.99,
        "accuracy": 0.98,
        "float_bytes": 1_724_320,
        "file_bytes": 5000,
        "compression_ratio": 344.864,
        "bits_per_weight": 0.0928,
        "fit_seconds": 10.0,
    }
    return {**plain, **changes}


def measured(**changes: object) -> dict[str, Any]:
    """A run as `read_runs` gives it."""
    run = result(**changes)
    named = {n.replace("accuracy", "quality"): v for n, v in run.items() if "accuracy" in n}
    return {"metric": "accuracy", "metric_mode": "max", **named, **run}


def store(root: Path, *results: dict[str, Any]) -> Path:
    for number, entry in enumerate(results):
        folder = root / f"deep/run={number},epochs=9"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(entry))
    return root


def test_pareto_front_by_brute_force() -> None:
    random.seed(0)
    points = [(random.randrange(40), random.randrange(40)) for _ in range(60)]
    front = {points[i] for i in pareto_front(points)}
    expected = {
        p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)
    }
    assert front == expected


def test_seeds_are_joined_and_nothing_else() -> None:
    runs = [
        measured(seed=0, file_bytes=5000, overrides=["epochs=9", "seed=0", "dataset.root=A"]),
        measured(seed=1, file_bytes=5200, accuracy=0.99, overrides=["seed=1", "epochs=9"]),
        measured(seed=2, file_bytes=6000, overrides=["epochs=20", "seed=2"]),
        measured(seed=0, lambda_entropy=1.0, file_bytes=9000),
        measured(seed=0, pruning="lobster"),
        measured(seed=0, order=3, file_bytes=7000),
    ]
    groups = {(g.label, len(g.runs), g.mean("file_bytes")): g for g in over_seeds(runs)}
    assert set(groups) == {
        ("HEMP order 2", 2, 5100.0),
        ("HEMP order 2", 1, 6000.0),
        ("HEMP order 2", 1, 9000.0),
        ("HEMP order 2 + LOBSTER", 1, 5000.0),
        ("HEMP order 3", 1, 7000.0),
    }
    pair = groups["HEMP order 2", 2, 5100.0]
    assert pair.spread("file_bytes") == pytest.approx(stdev([5000, 5200]))
    assert pair.mean("quality") == pytest.approx(0.985)
    assert pair.settings == "lambda 4, 7 levels, 9 epochs"


def test_runs_of_other_epochs_are_another_curve_and_of_another_lambda_are_not() -> None:
    def curve(*words: str) -> tuple[str, ...]:
        return over_seeds([measured(overrides=list(words))])[0].curve

    base = curve("epochs=9", "hemp.lambda_entropy=1")
    assert curve("epochs=9", "hemp.lambda_entropy=2", "seed=4") == base
    assert curve("epochs=20", "hemp.lambda_entropy=1") != base
    assert curve("epochs=9", "float_epochs=2", "hemp.lambda_entropy=1") != base


def test_identical_runs_count_once(tmp_path: Path) -> None:
    folder = store(
        tmp_path, result(seed=0), result(seed=0), result(seed=1), result(seed=1, accuracy=0.9)
    )
    assert [run["seed"] for run in read_runs([folder, folder])] == [0, 1, 1]


def test_the_validation_split_chooses() -> None:
    val = {"float_val_accuracy": 0.99}
    groups = over_seeds(
        [
            measured(**val, val_accuracy=0.97, accuracy=0.99, file_bytes=10, lambda_entropy=3.0),
            measured(**val, val_accuracy=0.985, accuracy=0.96, file_bytes=20, lambda_entropy=2.0),
            measured(**val, val_accuracy=0.99, accuracy=0.99, file_bytes=30, lambda_entropy=1.0),
        ]
    )
    assert smallest(groups)["HEMP order 2"].mean("file_bytes") == 20


def test_a_lucky_seed_is_not_the_best() -> None:
    lucky = [measured(seed=s, accuracy=a, file_bytes=10) for s, a in enumerate((0.985, 0.9, 0.9))]
    steady = [measured(seed=s, accuracy=0.982, file_bytes=20, lambda_entropy=1.0) for s in range(3)]
    best = smallest(over_seeds([*lucky, *steady]))["HEMP order 2"]
    assert best.mean("file_bytes") == 20 and len(best.runs) == 3


def test_the_front_is_of_means() -> None:
    runs = [
        *(measured(seed=s, accuracy=a, file_bytes=20) for s, a in enumerate((0.99, 0.91))),
        measured(lambda_entropy=1.0, accuracy=0.96, file_bytes=10),
    ]
    groups = over_seeds(runs)
    assert [groups[i].mean("quality") for i in front_of(groups)] == [pytest.approx(0.96)]


def test_less_of_a_perplexity_is_better() -> None:
    numbers = ((10, 4.0, 3.98), (20, 3.2, 3.19), (30, 3.21, 3.19), (40, 3.0, 3.19))
    runs = [
        {**measured(file_bytes=count, lambda_entropy=float(count)), "quality": value}
        | {"float_quality": start, "metric": "perplexity", "metric_mode": "min"}
        for count, value, start in numbers
    ]
    groups = over_seeds(runs)
    assert [groups[i].mean("file_bytes") for i in front_of(groups)] == [10, 20, 40]
    assert smallest(groups)["HEMP order 2"].mean("file_bytes") == 10
    assert smallest(groups, loss=0.004)["HEMP order 2"].mean("file_bytes") == 20


def test_a_task_of_another_metric_is_reported(tmp_path: Path) -> None:
    values = {"value": 3.25, "float_value": 3.0, "val_value": 3.2, "float_val_value": 3.1}
    other = result(model="gru", dataset="text", accuracy=None, float_accuracy=None) | values
    other |= {"metric": "perplexity", "metric_mode": "min", "epochs": 12, "float_epochs": 2}
    runs = store(tmp_path / "runs", other, result())
    _, table, page = write_report([runs], tmp_path / "report")
    assert "| method | settings | file | perplexity |" in table.read_text()
    assert "10 epochs after 2 in float" in table.read_text() and "| 3.25 | 3 |" in table.read_text()
    assert '<td data-name="perplexity" data-value="3.25">3.25</td>' in page.read_text()


def test_unlike_float_networks_are_not_averaged() -> None:
    runs = [
        *(measured(seed=s, float_accuracy=0.90, overrides=["float_epochs=2"]) for s in range(2)),
        *(measured(seed=s, float_accuracy=0.94, overrides=["float_epochs=8"]) for s in range(2)),
        measured(seed=2, float_accuracy=0.97, overrides=["float_epochs=8"]),
    ]
    networks = float_networks(over_seeds(runs))
    assert {name: round(accuracy, 4) for name, (accuracy, _) in networks.items()} == {
        "2 float epochs": 0.90,
        "8 float epochs": 0.95,
    }


def test_report_files(tmp_path: Path) -> None:
    runs = store(
        tmp_path / "runs",
        result(),
        result(seed=1, file_bytes=5200),
        result(method="lsq", order=None, lambda_entropy=None, file_bytes=20_000),
        result(model="resnet20", dataset="cifar10"),
    )
    files = write_report([runs], tmp_path / "report")
    assert [file.name for file in files] == ["results.csv", "results.md", "report.html"]
    with files[0].open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file_bytes"] for row in rows] == ["5000", "5200", "20000", "5000"]
    table = files[1].read_text()
    assert "| 5,100 ± 141 B | 98.00 ± 0.00 % |" in table and "| 20,000 B |" in table
    assert "## lenet5 on mnist" in table and "## resnet20 on cifar10" in table


def test_one_ruined_run_does_not_flatten_the_picture(tmp_path: Path) -> None:
    good = [result(lambda_entropy=v, accuracy=0.98 - v / 1000) for v in (1.0, 2.0, 3.0)]
    runs = store(tmp_path / "runs", *good, result(lambda_entropy=9.0, accuracy=0.1))
    page = write_report([runs], tmp_path / "report")[-1].read_text()
    chart = json.loads(page.split('type="application/json" id="s0-0">')[1].split("</script>")[0])
    low, high = chart["layout"]["yaxis"]["range"]
    assert 97 < low < 97.7 and 99 < high < 100
    assert "points below this view: 1" in page


def test_words_of_runs_cannot_end_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    runs = store(tmp_path / "runs", result(overrides=[f"model.note={evil}"]))
    page = write_report([runs], tmp_path / "report")[-1].read_text()
    assert evil not in page


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = store(tmp_path / "runs", result())
    assert main([str(runs), "-o", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        read_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="found none at"):
        read_runs([tmp_path / "no"])
