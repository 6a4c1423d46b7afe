"""`compress`: a small file of a trained network, without labels and without a training program."""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from hemp_lightning.calibration.candidates import NEAR, Candidate
from hemp_lightning.calibration.distances import Distance
from hemp_lightning.calibration.progress import Progress
from hemp_lightning.calibration.stages import StageResult, Work
from hemp_reader.replacing import replacing
from hemp_reader.summary import Summary

STAGES = ("round", "distil", "recalibrate")
"""What may be done with inputs, in this order."""

SAFE_DROP = 0.01
"""Disagreement that is allowed with inputs and without a target."""


@dataclass(frozen=True)
class CompressSummary(Summary):
    """A file, its sizes, and what became of the network in it.

    Attributes:
        stage: Stage that made the file.
        drop: Disagreement with the float network on held-back inputs: the share whose best class
            changed, of scores; the relative error of other outputs. None without inputs.
        held_back: How many inputs `drop` was measured on.
        errors: Relative error of each quantized tensor, the root of squared error over squared
            weights. Training moves weights on purpose: there it says nothing of quality.
        stages: What each stage came to.
    """

    stage: str = ""
    drop: float | None = None
    held_back: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    stages: tuple[StageResult, ...] = ()


def compress(
    model: nn.Module,
    path: str | os.PathLike[str],
    inputs: Any = None,
    *,
    target_bytes: int | None = None,
    max_drop: float | None = None,
    time_limit: float | None = None,
    distance: Distance | None = None,
    stages: Sequence[str] = STAGES,
    seed: int = 0,
    progress: bool | None = None,
) -> CompressSummary:
    """Write a trained network as a small file that keeps what it computes.

    With `inputs` the network is quantized so that its outputs stay, and then trained towards its
    own outputs, while the entropy of its weights falls. Without them it is quantized on grids
    whose steps follow the scales of the tensors. No labels are needed. Ctrl-C ends the work and
    keeps the best file so far.

    Args:
        model: Any module; it is not changed. In evaluation mode it must give the same outputs for
            the same inputs.
        path: The file to write; on any failure an old file of that name stays as it was.
        inputs: What the network is used on: a tensor whose first axis counts inputs, an iterable
            of batches, or a DataLoader. See `read_inputs`.
        target_bytes: Size to land at: at most this, and within 2 percent of it.
        max_drop: The smallest file is wanted whose disagreement with the float network on
            held-back inputs is at most this: share of changed top-1 for scores, else relative
            error, or the mean of `distance`. Without both, `max_drop` is 0.01.
        time_limit: Seconds for all stages; None for ten minutes of training at most.
        distance: From outputs and those of the float network to a scalar, differentiable; None for
            the divergence of scores and the relative squared error of other outputs.
        stages: Which of `STAGES` may run.
        seed: Of every random draw.
        progress: Whether to show a bar; None for where stderr is a terminal.

    Returns:
        Sizes and disagreement.

    Raises:
        ValueError: If an argument is out of range, the model does not take the inputs, its outputs
            have NaN or differ from pass to pass.
        TypeError: If `model` or `inputs` are of a wrong type.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> summary = compress(net, f"{folder.name}/net.hemp", target_bytes=2500)
        >>> 2450 <= summary.file_bytes <= 2500
        True
    """
    _check_arguments(model, inputs, target_bytes, max_drop, time_limit, stages)
    if target_bytes is None and max_drop is None and inputs is not None:
        max_drop = SAFE_DROP
    network = copy.deepcopy(model).eval().requires_grad_(True)
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    network.float()
    shown = Progress(progress, time_limit)
    with tempfile.TemporaryDirectory() as folder:
        try:
            work = Work(
                network, dtypes, inputs, target_bytes, max_drop, distance, stages, seed, shown,
                Path(folder),
            )  # fmt: skip
            try:
                work.run()
            except KeyboardInterrupt:
                if work.judge.best is None:
                    raise
                warnings.warn("interrupted: the best file so far is kept", stacklevel=2)
        finally:
            shown.close()
        return _finish(work, path)


def _finish(work: Work, path: str | os.PathLike[str]) -> CompressSummary:
    """Put the best file in its place."""
    best = work.judge.best
    assert best is not None
    with replacing(path) as temporary:
        shutil.copyfile(best.file, temporary)
    summary = replace(best.summary, path=os.fspath(path))
    if not work.judge.fits(best) or best.bytes < NEAR * (work.target_bytes or 0):
        _warn_out_of_reach(work, best)
    return CompressSummary(
        **{entry.name: getattr(summary, entry.name) for entry in fields(Summary)},
        stage=best.stage,
        drop=best.drop,
        held_back=0 if work.held_back is None else len(work.held_back),
        errors=best.errors,
        stages=tuple(work.results),
    )


def _warn_out_of_reach(work: Work, best: Candidate) -> None:
    if work.target_bytes is not None:
        message = (
            f"`target_bytes` must be within reach of the network; found "
            f"{work.target_bytes:,}, and {best.bytes:,} bytes in the nearest file, which is "
            "written"
        )
    else:
        message = (
            f"`max_drop` must be within reach of the network; found {work.max_drop}, and "
            f"{best.drop:.4f} with the finest levels. The nearest file is written"
        )
    warnings.warn(message, stacklevel=4)


def _check_arguments(
    model: object,
    inputs: object,
    target_bytes: int | None,
    max_drop: float | None,
    time_limit: float | None,
    stages: Sequence[str],
) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a module; found {type(model).__name__}")
    if not any(True for _ in model.parameters()):
        raise ValueError(f"`model` must have parameters; found none in {type(model).__name__}")
    if target_bytes is not None and max_drop is not None:
        raise ValueError(
            "`target_bytes` and `max_drop`: expected at most one of the two, as the one follows "
            "from the other; found both"
        )
    if target_bytes is not None and not 0 < target_bytes < math.inf:
        raise ValueError(f"`target_bytes` must be above 0; found {target_bytes}")
    if max_drop is not None and not 0 < max_drop < math.inf:
        raise ValueError(f"`max_drop` must be above 0; found {max_drop}")
    if max_drop is not None and inputs is None:
        raise ValueError(
            "`max_drop` needs `inputs` to be measured on; found none. Give some, or a "
            "`target_bytes`"
        )
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise ValueError(f"`time_limit` must be above 0 seconds; found {time_limit}")
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"`stages` must be among {', '.join(STAGES)}; found {stage!r}")
