"""The command `hemp run`, also `python run.py` in a clone: one experiment, or a sweep of them."""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import hemp_lightning
from hemp_lightning.suite import sweeps
from hemp_lightning.suite.error_reporting import (
    exit_with,
    one_line,
    run_cleanly,
    wants_tracebacks,
    write_error,
)
from hemp_lightning.suite.experiment import execute, finished, prepare
from hemp_lightning.suite.logs import logged
from hemp_lightning.suite.results import print_table, write_results
from hemp_lightning.suite.words import CONF, plain, prepared

_log = logging.getLogger(__name__)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: As on the command line, without the name of the program; None for those.

    Returns:
        The exit code: 0, 1 after an error or with failed jobs in a sweep, 130 after Ctrl-C.
    """
    script = sys.argv[0]
    if words is not None:  # `hemp run`: processes of their own are started from a file
        script = str(Path(__file__).with_name("__main__.py"))
    before, sys.argv = sys.argv, [script, *prepared(sys.argv[1:] if words is None else words)]
    _find_modules()
    sweeps.failures.clear()
    try:
        code = run_cleanly(_job)
    finally:
        sys.argv = before
    if sweeps.failures:
        sweeps.print_failures()
        return 1
    return code


def run(config: DictConfig, folder: Path) -> dict:
    """One experiment in one run folder; its results, from before if it was already done.

    Args:
        config: The composed configuration of `conf/`.
        folder: The run folder.

    Returns:
        The entries of `results.json`; nothing on processes beside the first.
    """
    results = finished(config, folder) if config.skip_finished else None
    if results is not None:
        _log.info("already done, skipped: %s", folder)
        return results
    experiment = prepare(config, folder)
    results = execute(experiment)
    if results:
        write_results(results, folder)
        (folder / "error.txt").unlink(missing_ok=True)
        sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
        print_table(results, folder, sweeping)
    return results


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(config: DictConfig) -> float | tuple[float, ...]:
    """Run, and give a sweeper the numbers to minimise."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    with logged(folder):
        try:
            _check_sweep(sweeping)
            results = run(config, folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(how_to_go_on(folder)) from None
        except Exception as error:
            write_error(error, folder)
            _log.debug("failed", exc_info=True)  # the traceback goes to run.log
            if not sweeping:
                if wants_tracebacks():
                    raise
                exit_with(error, folder)
            # The other jobs of a sweep go on; the sweeper learns that this one was worth nothing.
            _log.error("job failed, see %s: %s", folder / "error.txt", one_line(error))
            results = dict.fromkeys(config.objective, math.inf)
    numbers = tuple(float(results.get(name, math.inf)) for name in config.objective)
    return numbers if len(numbers) > 1 else numbers[0]


def how_to_go_on(folder: Path) -> str:
    """What an interrupted run has kept, and the command that resumes it."""
    kept = sorted(folder.glob("checkpoints/*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    if not kept:
        return "interrupted before the first checkpoint, which is written after an epoch"
    words = [plain(word) for word in HydraConfig.get().overrides.task]
    words = [word for word in words if not word.startswith("resume=")]
    words += [f"resume={kept[-1]}", f"hydra.run.dir={folder}"]
    return f"interrupted; kept: {kept[-1]}. To go on, type\n{program()} {shlex.join(words)}"


def program() -> str:
    """How the command was called: `hemp run`, or `python run.py` in a clone."""
    return "python run.py" if Path(sys.argv[0]).name == "run.py" else "hemp run"


def _check_sweep(sweeping: bool) -> None:
    choices = HydraConfig.get().runtime.choices
    for group in ("sweep", "launcher"):
        if choices.get(group) is not None and not sweeping:
            raise ValueError(
                f"`{group}={choices[group]}`: expected the sign of a sweep, -m; found none, and "
                f"one run would be made. Type {program()} -m {group}={choices[group]} ..."
            )


def _find_modules() -> None:
    """Let a user's own modules be found, in the folder of the command, here and in workers."""
    package = str(Path(hemp_lightning.__file__).parents[1])
    here = os.getcwd()
    for folder in (package, here):
        if folder not in sys.path:
            sys.path.insert(0, folder) if folder == here else sys.path.append(folder)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    wanted = [folder for folder in (here, package) if folder not in known]
    os.environ["PYTHONPATH"] = os.pathsep.join([*wanted, *filter(None, known)])
