"""Train a network, write it as one small file, read the file back and test what came out of it.

python run.py                                          LeNet-5 on scikit-learn's digits
python run.py model=resnet20 dataset=cifar10 hemp.order=3
python run.py -m hemp.lambda_entropy=0.1,0.3,1         a sweep: one run folder a value
"""

from __future__ import annotations

import logging
import math
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from hemp_lightning.suite.error_reporting import (
    USER_ERRORS,
    exit_with,
    one_line,
    run_cleanly,
    wants_tracebacks,
)
from hemp_lightning.suite.experiment import execute, finished, prepare
from hemp_lightning.suite.results import print_table, write_results

log = logging.getLogger("run")


def run(config: DictConfig, folder: Path) -> dict:
    """One experiment in one run folder; its results, from before if it was already done."""
    results = finished(config, folder) if config.skip_finished else None
    if results is not None:
        log.info("already done, skipped: %s", folder)
        return results
    experiment = prepare(config, folder)
    results = execute(experiment)
    if experiment.trainer.is_global_zero:
        write_results(results, folder)
        print_table(results, folder)
    return results


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | tuple[float, ...]:
    """Run, and give a sweeper the numbers to minimise."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        results = run(config, folder)
    except Exception as error:
        (folder / "error.txt").write_text(traceback.format_exc())
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            if isinstance(error, USER_ERRORS) and not wants_tracebacks():
                exit_with(error)
            raise
        # The other jobs of a sweep go on; the sweeper learns that this one was worth nothing.
        log.error("job failed, see %s: %s", folder / "error.txt", one_line(error))
        results = dict.fromkeys(config.objective, math.inf)
    numbers = tuple(float(results[name]) for name in config.objective)
    return numbers if len(numbers) > 1 else numbers[0]


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
