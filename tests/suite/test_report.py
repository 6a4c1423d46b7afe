"""The report: what it gathers, the Pareto front against brute force, seeds, a page by itself."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from statistics import stdev

import pytest

from hemp_lightning.suite.report import (
    main,
    over_seeds,
    pareto_front,
    read_runs,
    smallest,
    write_report,
)


def result(**changes: object) -> dict:
    plain = {
        "model": "lenet5",
        "dataset": "mnist",
        "method": "hemp",
        "pruning": "none",
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


def store(root: Path, *results: dict) -> Path:
    for number, entry in enumerate(results):
        (root / f"deep/{number}").mkdir(parents=True)
        (root / f"deep/{number}/results.json").write_text(json.dumps(entry))
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
        result(seed=0, file_bytes=5000, overrides=["a=1", "seed=0"]),
        result(seed=1, file_bytes=5200, accuracy=0.99, overrides=["a=1", "seed=1"]),
        result(seed=0, lambda_entropy=1.0, file_bytes=9000),
        result(seed=0, pruning="lobster"),
    ]
    joined = {(p["label"], p["seeds"], p["file_bytes"]): p for p in over_seeds(runs)}
    assert set(joined) == {
        ("hemp order 2", 2, 5100.0),
        ("hemp order 2", 1, 9000.0),
        ("hemp order 2 + lobster", 1, 5000.0),
    }
    pair = joined["hemp order 2", 2, 5100.0]
    assert pair["file_bytes_spread"] == pytest.approx(stdev([5000, 5200]))
    assert pair["accuracy"] == pytest.approx(0.985)


def test_the_validation_split_chooses() -> None:
    val = {"float_val_accuracy": 0.99}
    runs = [
        result(**val, val_accuracy=0.97, accuracy=0.99, file_bytes=10),
        result(**val, val_accuracy=0.985, accuracy=0.96, file_bytes=20),
        result(**val, val_accuracy=0.99, accuracy=0.99, file_bytes=30),
    ]
    assert smallest(runs)["hemp order 2"]["file_bytes"] == 20


def test_a_line_joins_the_front_of_its_own_label() -> None:
    runs = [
        result(lambda_entropy=1.0, file_bytes=10, accuracy=0.9),
        result(lambda_entropy=2.0, file_bytes=20, accuracy=0.8),
        result(method="lsq", file_bytes=30, accuracy=0.7),
    ]
    assert [point["best"] for point in over_seeds(runs)] == [True, False, True]


def test_report_files(tmp_path: Path) -> None:
    runs = store(
        tmp_path / "runs",
        result(),
        result(method="lsq", order=None, lambda_entropy=None, file_bytes=20_000),
        result(model="resnet20", dataset="cifar10"),
    )
    files = write_report([runs], tmp_path / "report")
    assert all(file.is_file() for file in files)
    assert {f.name for f in files if f.suffix == ".png"} == {
        "lenet5_mnist.png",
        "resnet20_cifar10.png",
    }
    with (tmp_path / "report" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file_bytes"] for row in rows] == ["5000", "20000", "5000"]
    table = (tmp_path / "report" / "results.md").read_text()
    assert "| 98.00 % |" in table and "| 20,000 |" in table
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page  # opens offline


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = store(tmp_path / "runs", result())
    assert main([str(runs), "-o", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        read_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="found none at"):
        read_runs([tmp_path / "no"])
