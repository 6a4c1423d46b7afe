"""Sweeps: the name of a job's folder, and the table of jobs that failed."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from hemp_lightning.suite.words import plain

_log = logging.getLogger(__name__)

failures: list[tuple[str, str]] = []
"""Folder and error of each job that failed in the sweep that ended last in this process."""


def run_name(overrides: str) -> str:
    """A folder name for the overrides of a sweep's job: readable, without path separators.

    Example:
        >>> run_name("++hemp.order=3,seed=1")
        'hemp.order=3,seed=1'
    """
    typed = ",".join(plain(word) for word in overrides.split(","))
    name = re.sub(r"[^\w.,=+-]+", "_", typed.replace("/", "_")) or "run"
    if len(name) <= 150:
        return name
    return f"{name[:130]}~{hashlib.sha256(typed.encode()).hexdigest()[:12]}"


class CountFailures(Callback):
    """Hydra's callback that finds the `error.txt` of jobs that failed, on whatever launcher.

    It also lets a search of Optuna that was interrupted run only the trials that are left.
    """

    def __init__(self) -> None:
        self._started = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember when the sweep began: older errors are not its own."""
        failures.clear()
        Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)  # holds Optuna's study
        if config.hydra.sweeper.get("storage") and config.hydra.sweeper.get("n_trials"):
            _run_what_is_left(config)
        self._started = time.time() - 1.0  # the clocks of file systems are coarse

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect the errors; `run_cleanly` turns them into an exit code."""
        for file in sorted(Path(str(config.hydra.sweep.dir)).rglob("error.txt")):
            if file.stat().st_mtime >= self._started:
                failures.append((str(file.parent), file.read_text().splitlines()[0]))
        print_next(str(config.hydra.sweep.dir))


def _run_what_is_left(config: DictConfig) -> None:
    """Lower `n_trials`, which the sweeper counts from now on, by those that a study has behind it.

    A trial that a kill cut off counts as none.
    """
    import optuna

    sweeper: Any = config.hydra.sweeper
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    except KeyError:  # no such study yet
        return
    finally:
        optuna.logging.set_verbosity(level)
    done = sum(trial.state.is_finished() for trial in study.trials)
    asked = int(sweeper.n_trials)
    if done:
        _log.warning("the study has %d of %d trials; %d to go", done, asked, max(0, asked - done))
    with flag_override(config, ["struct", "readonly"], [False, False]):
        sweeper.n_trials = max(0, asked - done)


def print_next(folder: str) -> None:
    """Print what to do after a sweep.

    Args:
        folder: Of the sweep.
    """
    from rich.console import Console

    Console().print(f"The sweep is in {folder}\nNext: hemp report {folder}", soft_wrap=True)


def print_failures() -> None:
    """Print a table of the jobs that failed."""
    from rich.console import Console
    from rich.table import Table

    jobs = "1 job" if len(failures) == 1 else f"{len(failures)} jobs"
    table = Table(title=f"{jobs} of the sweep failed; the others are done")
    table.add_column("job", overflow="fold")
    table.add_column("error", overflow="fold")
    for folder, error in failures:
        table.add_row(Path(folder).name, error)
    console = Console(stderr=True)
    console.print(table)
    console.print(
        f"Tracebacks are in {Path(failures[0][0]).parent}/*/error.txt. The same command runs the "
        "failed jobs again and skips the others.",
        soft_wrap=True,
    )


OmegaConf.register_new_resolver("sum", lambda *terms: sum(terms), replace=True)
OmegaConf.register_new_resolver("half", lambda number: number // 2, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
