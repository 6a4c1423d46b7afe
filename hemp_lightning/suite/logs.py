"""What goes to the screen and what to `run.log`, and a progress bar of 80 columns."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

_log = logging.getLogger(__name__)

_NOISE = (
    # advice of others, which says nothing about a run of the suite
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*hyperparameter .* saved during checkpointing.*",
    ".*`training_step` returned `None`.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",
    ".*pkg_resources is deprecated.*",
    ".*Trying to infer the `batch_size`.*",
)


@contextmanager
def logged(folder: Path, name: str = "run.log") -> Iterator[None]:
    """Write all that is logged while a run goes on to its `run.log`.

    The screen gets warnings, and of the rest only what the suite says. Processes beside the first
    one write nothing.

    Args:
        folder: The run folder.
        name: Of the file.
    """
    root = logging.getLogger()
    before = (root.level, list(root.handlers), [h.filters[:] for h in root.handlers])
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    for handler in root.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(_for_the_screen if first else _errors)
            handler.setFormatter(logging.Formatter("%(message)s"))
    file: logging.Handler = logging.NullHandler()
    if first:
        file = logging.FileHandler(folder / name)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)
    root.setLevel(logging.INFO)
    suite = logging.getLogger("hemp_lightning")
    suite.setLevel(logging.DEBUG)
    for library in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).handlers.clear()  # else they keep to handlers of their own
        logging.getLogger(library).propagate = True
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            for text in _NOISE:
                warnings.filterwarnings("ignore", text)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(before[0])
        for handler, filters in zip(before[1], before[2], strict=True):
            handler.filters[:] = filters
        root.removeHandler(file)
        file.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Let Lightning log warnings alone: a trainer that measures need not introduce itself."""
    library = logging.getLogger("lightning.pytorch")
    before = library.level
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.setLevel(before)


def _for_the_screen(record: logging.LogRecord) -> bool:
    if record.name.startswith(("hemp_lightning", "run")):
        return record.levelno >= logging.INFO
    return record.levelno >= logging.WARNING


def _errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


class EpochLines(Callback):
    """One line an epoch in `run.log`: the epoch and all that was logged in it."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line; the screen has the progress bar."""
        found = sorted(trainer.logged_metrics.items())
        numbers = ", ".join(f"{name} {float(value):.4g}" for name, value in found)
        _log.debug("epoch %d of %s: %s", trainer.current_epoch + 1, trainer.max_epochs, numbers)


class ProgressBar(RichProgressBar):
    """A progress bar that fits 80 columns: of the metrics, those of the validation and the rate.

    The rate is that of the indices in bits per weight, as in the table at the end.
    """

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The metrics shown, under short names."""
        found = super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        ratio = found.pop("hemp/ratio", None)
        shown = {
            name.removeprefix("val/"): value
            for name, value in found.items()
            if name.startswith("val/")
        }
        if ratio:
            shown["bits"] = 32.0 / float(str(ratio))
        return dict(list(shown.items())[:3])

    def _get_train_description(self, current_epoch: int) -> str:
        """Lightning's words, with epochs counted from 1 as everywhere else."""
        most = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}{'' if most is None else f'/{most}'}".ljust(10)

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Lightning's columns, the bar itself narrower."""
        from rich.progress import BarColumn

        columns = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = 8
        return [c for c in columns if type(c).__name__ != "ProcessingSpeedColumn"]
