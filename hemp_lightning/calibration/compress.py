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

import torch
from torch import Tensor, nn

from hemp_lightning.calibration.candidates import NEAR, Candidate, Judge, check_network
from hemp_lightning.calibration.distances import Distance, are_scores
from hemp_lightning.calibration.grids import grid_codebooks, quantizable, transforms_of
from hemp_lightning.calibration.inputs import Inputs, read_inputs
from hemp_lightning.calibration.progress import Progress
from hemp_lightning.calibration.rounding import Rounding
from hemp_lightning.calibration.search import land_on_bytes, land_on_drop
from hemp_lightning.file.format.files import replacing
from hemp_lightning.file.summary import Summary
from hemp_lightning.quantization.codebook import Codebook

STAGES = ("round", "distil", "recalibrate")
"""What may be done with inputs, in this order."""

SAFE_ERROR = 0.01
"""Relative squared error, summed over tensors, that is allowed without inputs or a target."""

SAFE_DROP = 0.01
"""Disagreement that is allowed with inputs and without a target."""

DISTIL_SECONDS = 600.0
"""Time for training where no limit is given."""

FINEST, COARSEST = 1e-9, 1e3


@dataclass(frozen=True)
class StageResult:
    """What a stage came to.

    Attributes:
        name: Its name.
        bytes: Size of its file; 0 where it was left out.
        drop: Disagreement of its file on held-back inputs, None without inputs.
        seconds: Time that it took.
        note: How long it trained, or why it was left out.
    """

    name: str
    bytes: int
    drop: float | None
    seconds: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
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
            work = _Work(
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
        return work.finish(path)


class _Work:
    """The stages of one call of `compress`."""

    def __init__(
        self,
        network: nn.Module,
        dtypes: dict[str, torch.dtype],
        inputs: Any,
        target_bytes: int | None,
        max_drop: float | None,
        distance: Distance | None,
        stages: Sequence[str],
        seed: int,
        progress: Progress,
        folder: Path,
    ) -> None:
        self.network = network
        self.target_bytes = target_bytes
        self.max_drop = max_drop
        self.distance = distance
        self.stages = stages
        self.seed = seed
        self.progress = progress
        self.results: list[StageResult] = []
        self.parameters = quantizable(network)
        self.transforms = transforms_of(self.parameters)
        self.training: Inputs | None = None
        self.held_back: Inputs | None = None
        self.are_scores = False
        if inputs is not None:
            read = read_inputs(inputs, network)
            self.are_scores = are_scores(check_network(network, read))
            share, most = (0.1, 500) if max_drop is None else (0.25, 2000)
            self.training, self.held_back = read.split(share, most, seed)
        self.judge = Judge(
            network, dtypes, self.held_back, distance, target_bytes, max_drop, folder
        )

    def run(self) -> None:
        """All stages."""
        self._grid()
        if self.training is None or not self.parameters:
            return
        if "round" in self.stages:
            self._round()
        if "distil" in self.stages:
            self._distil()

    def finish(self, path: str | os.PathLike[str]) -> CompressSummary:
        """Put the best file in its place."""
        best = self.judge.best
        assert best is not None
        with replacing(path) as temporary:
            shutil.copyfile(best.file, temporary)
        summary = replace(best.summary, path=os.fspath(path))
        if not self.judge.fits(best) or best.bytes < NEAR * (self.target_bytes or 0):
            self._warn_out_of_reach(best)
        return CompressSummary(
            **{entry.name: getattr(summary, entry.name) for entry in fields(Summary)},
            stage=best.stage,
            drop=best.drop,
            held_back=0 if self.held_back is None else len(self.held_back),
            errors=best.errors,
            stages=tuple(self.results),
        )

    def _warn_out_of_reach(self, best: Candidate) -> None:
        if self.target_bytes is not None:
            message = (
                f"`target_bytes` must be within reach of the network; found "
                f"{self.target_bytes:,}, and {best.bytes:,} bytes in the nearest file, which is "
                "written"
            )
        else:
            message = (
                f"`max_drop` must be within reach of the network; found {self.max_drop}, and "
                f"{best.drop:.4f} with the finest levels. The nearest file is written"
            )
        warnings.warn(message, stacklevel=4)

    # The stages.

    def _grid(self) -> None:
        """Plain grids: all that can be done without inputs, and where the rest starts from."""
        begin = self.progress.seconds
        self.progress.stage("grid", 14)
        weights = {name: p.detach() for name, p in self.parameters.items()}
        made: dict[float, Candidate] = {}

        def candidate(error: float) -> Candidate:
            if error not in made:
                books = grid_codebooks(weights, error, self.transforms)
                summary = self.judge.write(self.network, books)
                made[error] = self.judge.measure("grid", summary, weights)
                self._show()
                self.progress.step()
            return made[error]

        def size(error: float) -> int:
            self.progress.step()
            return self.judge.size(self.network, grid_codebooks(weights, error, self.transforms))

        if self.target_bytes is not None and weights:
            error = land_on_bytes(size, self.target_bytes, 0.1, FINEST, COARSEST)
            found = candidate(error)
        elif self.max_drop is not None and weights:
            limit = self.max_drop

            def drop(error: float) -> float:
                return candidate(error).drop or 0.0

            found = candidate(land_on_drop(drop, limit, SAFE_ERROR, FINEST))
        else:
            found = candidate(SAFE_ERROR)
        self._note("grid", found, begin)

    def _round(self) -> None:
        """Second-order rounding, first by what the float network sees, then layer by layer."""
        assert self.training is not None
        begin = self.progress.seconds
        self.progress.stage("round", 16)
        rounding = Rounding(self.network, self.parameters, self.training, self.transforms)
        weights = {name: p.detach() for name, p in self.parameters.items()}

        def size(price: float) -> int:
            self.progress.step()
            network, books = rounding.at_once(price)
            return self.judge.size(network, books)

        def candidate(network: nn.Module, books: dict[str, Codebook]) -> Candidate:
            found = self.judge.measure("round", self.judge.write(network, books), weights)
            self._show()
            self.progress.step()
            return found

        start = rounding.usual_price()
        if self.target_bytes is not None:
            target = self.target_bytes
            price = land_on_bytes(size, target, start, start * FINEST, start / FINEST, tries=9)
            found = candidate(*rounding.at_once(price))
            for _ in range(3):  # other inputs, other bytes
                network, books = rounding.layer_by_layer(price)
                written = self.judge.size(network, books)
                if written <= target:
                    found = candidate(network, books)
                    if written >= NEAR * target:
                        break
                price *= (written / (0.992 * target)) ** 3
        else:
            assert self.max_drop is not None

            def drop(price: float) -> float:
                return candidate(*rounding.at_once(price)).drop or 0.0

            price = land_on_drop(drop, self.max_drop, start, start * FINEST)
            for factor in (1.0, 1.5):
                found = candidate(*rounding.layer_by_layer(factor * price))
                if not self.judge.fits(found):
                    break
        self._note("round", found, begin)

    def _distil(self) -> None:
        """Training towards the outputs of the float network, once or as often as it pays."""
        if self.target_bytes is not None:
            self._distil_to(self.target_bytes, self._seconds_for_training(1))
            return
        best = self.judge.best
        assert best is not None
        low, high = 0, best.bytes  # what was too small, what was enough
        share = 0.6
        for attempt in range(3):
            target = round(share * high) if not low else round(math.sqrt(low * high))
            if self.progress.seconds_left < 5 or high - target < 0.05 * high:
                break
            found = self._distil_to(target, self._seconds_for_training(3 - attempt))
            if found is not None and self.judge.fits(found):
                high = found.bytes
            else:
                low = target

    def _seconds_for_training(self, parts: int) -> float:
        left = self.progress.seconds_left
        return 0.9 * (DISTIL_SECONDS if left == math.inf else left) / parts

    def _distil_to(self, target: int, seconds: float) -> Candidate | None:
        from hemp_lightning.calibration.distillation import distil, num_levels_for, recalibrate

        assert self.training is not None
        begin = self.progress.seconds
        weights = {name: p.detach() for name, p in self.parameters.items()}
        bits = 8 * target / max(1, sum(p.numel() for p in weights.values()))
        network = copy.deepcopy(self.network)
        if seconds <= 0:
            self.results.append(StageResult("distil", 0, None, 0.0, "no time was left"))
            return None
        books = distil(
            network, self.training, list(weights), target, num_levels_for(bits), self.distance,
            self.progress, seconds, self.seed,
        )  # fmt: skip
        note = f"{self.progress.steps} steps"
        own = dict(network.named_parameters())
        trained = {name: own[name].detach().clone() for name in weights}
        for recalibrated in (False, True):  # other statistics may take other bytes
            books = self._land(network, trained, books, target)
            if recalibrated or "recalibrate" not in self.stages:
                break
            for name in weights:
                books[name].quantize(trained[name], out=own[name].data)
            recalibrate(network, self.training, self.seed)
            for name in weights:
                own[name].data.copy_(trained[name])
        found = self.judge.measure("distil", self.judge.write(network, books), weights)
        self._note("distil", found, begin, note)
        return found

    def _land(
        self,
        network: nn.Module,
        weights: dict[str, Tensor],
        books: dict[str, Codebook],
        target: int,
    ) -> dict[str, Codebook]:
        """Codebooks whose file has at most `target` bytes: trimmed, or else on coarser grids."""
        from hemp_lightning.training.trim import trim

        if self.judge.size(network, books) <= target:
            return books
        try:
            return trim(weights, books, target, lambda found: self.judge.size(network, found))
        except ValueError:  # training was too short to come near

            def size(error: float) -> int:
                return self.judge.size(network, grid_codebooks(weights, error, self.transforms))

            error = land_on_bytes(size, target, 0.1, FINEST, COARSEST)
            return grid_codebooks(weights, error, self.transforms)

    def _note(self, stage: str, found: Candidate, begin: float, note: str = "") -> None:
        seconds = self.progress.seconds - begin
        self.results.append(StageResult(stage, found.bytes, found.drop, seconds, note))
        self._show()

    def _show(self) -> None:
        best = self.judge.best
        if best is not None:
            drop = "" if best.drop is None else f"drop {best.drop:.4f}"
            if best.drop is not None and self.are_scores and self.distance is None:
                drop = f"agreement {1 - best.drop:.2%}"
            self.progress.best(best.bytes, drop)


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
