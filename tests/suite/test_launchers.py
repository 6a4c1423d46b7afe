"""Launchers on this machine: all jobs done, a crash lost to none but itself."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path

import pytest

from tests.suite.test_run import QUICK, here, results, run

pytestmark = pytest.mark.slow

PLUGINS = {
    "joblib": "hydra_joblib_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",  # starts a cluster on this machine
}


def need(plugin: str) -> None:
    """Skip the test where the plugin, or the namespace of all plugins, is not there."""
    pytest.importorskip("hydra_plugins")  # `find_spec` below raises if the parent is missing
    if importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_sweep_on_a_launcher(tmp_path: Path, launcher: str) -> None:
    need(PLUGINS[launcher])
    words = ["-m", f"launcher={launcher}", *QUICK, "model=lenet300", "hemp.order=0,1,2"]
    ended = run(tmp_path / "s", *words, where="hydra.sweep.dir", code=1)
    assert "1 job of the sweep failed" in ended.stderr
    done = sorted(results(path.parent)["order"] for path in tmp_path.glob("s/*/results.json"))
    assert done == [1, 2]
    assert "`order`" in next(tmp_path.glob("s/*/error.txt")).read_text()


def test_optuna_finds_a_pareto_front_of_both_objectives(tmp_path: Path) -> None:
    need("hydra_optuna_sweeper")
    words = ["-m", "sweep=optuna", *QUICK, "model=lenet300"]
    for trials in (1, 2, 2):  # the second command goes on with the study, the third finds it done
        asked = f"hydra.sweeper.n_trials={trials}"
        here(tmp_path / "s", *words, asked, where="hydra.sweep.dir")
        with sqlite3.connect(tmp_path / "s" / "study.db") as study:
            assert study.execute("select count(*) from trials").fetchone() == (trials,)
    found = [results(path.parent) for path in tmp_path.glob("s/*/results.json")]
    pairs = {(entry["file_bytes"], entry["error"]) for entry in found}
    best = (tmp_path / "s" / "optimization_results.yaml").read_text()
    assert len(found) == 2 and any(f"{size}" in best for size, _ in pairs)
