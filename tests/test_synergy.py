"""The page of HEMP with pruning and quantization: its numbers by hand, its runs by their words."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def programs() -> tuple[ModuleType, ModuleType]:
    """`synergy` and `synergy_runs` of `benchmarks/`."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("synergy"), importlib.import_module("synergy_runs")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def write(folder: Path, row: str, seed: int, points: list[tuple[int, float]]) -> None:
    for number, (size, accuracy) in enumerate(points):
        run = {"seed": seed, "file_bytes": size, "accuracy": accuracy, "zero_share": 0.5}
        run |= {"float_bytes": 9000, "float_accuracy": 0.95}
        (folder / f"{row}_{number}_seed{seed}.json").write_text(json.dumps(run))


def test_bytes_at_one_accuracy_and_what_a_combination_saves(
    tmp_path: Path, programs: tuple[ModuleType, ModuleType]
) -> None:
    synergy, runs = programs
    folder = tmp_path / "lenet300_mnist"
    folder.mkdir()
    for seed, more in ((0, 0), (1, 40)):
        write(folder, "hemp", seed, [(500 + more, 0.80), (1000 + more, 0.90), (3000, 0.92)])
        write(folder, "lsq", seed, [(4000, 0.85), (5000, 0.93), (6000, 0.94)])
        write(folder, "hemp_lsq", seed, [(400, 0.86), (600, 0.90), (800, 0.94)])
        write(folder, "lobster", seed, [(4000, 0.85), (5000, 0.93)])
        write(folder, "hemp_lobster", seed, [(1500, 0.5), (2000, 0.80), (2500, 0.91)])
    found = synergy.read(folder)
    assert list(found) == ["hemp", "lsq", "hemp_lsq", "lobster", "hemp_lobster"]
    assert synergy.compared_at(found) == 0.86  # between 0.80 and 0.92
    said = synergy.gains(found, 0.90)
    # 600 of 1000 and 1040: 0.59; LSQ alone is at 4,625 there
    assert (
        "HEMP + LSQ needs 600 ± 0 B at 90.0 %, HEMP alone 1,020 ± 28 B: 0.59 of the bytes" in said
    )
    assert "HEMP + LOBSTER, at once needs 2,455 ± 0 B" in said and "2.41 of the bytes" in said
    assert "HEMP + magnitude pruning: not complete" in said
    above = synergy.at_accuracy(found["hemp_lobster"], 0.92)
    assert above.text() == "> 2,500 ± 0 B"
    assert synergy.at_accuracy(found["lobster"], 0.90) is None  # two points are no curve
    rows = synergy.rows_of(found, 0.90)
    assert "| LOBSTER | 50 % | 4,000 B 85.00 %; 5,000 B 93.00 % | no curve | 2 |" in rows
    state = synergy.state_of(runs.PLANS["lenet300_mnist"], found)
    assert "Not complete" in state and "magnitude pruning" in state and "LSQ," not in state


def test_the_page_is_what_the_results_files_say(
    programs: tuple[ModuleType, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    assert programs[0].main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_every_run_is_one_that_the_suite_takes(programs: tuple[ModuleType, ModuleType]) -> None:
    from hemp_lightning.suite.words import prepared
    from tests.suite.test_configs import check, composed

    _, runs = programs
    for plan in runs.PLANS.values():
        made = list(runs.runs(plan, 1))
        names = [run.name for run in made]
        assert len(set(names)) == len(names)
        for place, run in enumerate(made):
            assert not run.start or run.start in names[:place]  # trained before it is needed
            config = composed(*prepared(run.words))
            check(config)
            assert config.seed == 1
            # what begins with half of the epochs behind it has the other half
            halves = run.name.startswith("lobster_then_hemp")
            wanted = plan.epochs // 2 if halves else plan.epochs
            assert config.epochs == (wanted if run.start else 0)
