"""The stages of `compress`: what each tries, and what came of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hemp_lightning.calibration.candidates import NEAR, Candidate, Judge, check_network
from hemp_lightning.calibration.distances import Distance, are_scores
from hemp_lightning.calibration.grids import grid_codebooks, quantizable, transforms_of
from hemp_lightning.calibration.inputs import Inputs, read_inputs
from hemp_lightning.calibration.probe import Probe, noise_for
from hemp_lightning.calibration.progress import Progress
from hemp_lightning.calibration.rounding import Rounding
from hemp_lightning.calibration.search import land_on_bytes, land_on_drop
from hemp_lightning.quantization.codebook import Codebook

SAFE_ERROR = 0.02
"""Relative squared error, summed over tensors, that is allowed without inputs or a target."""

DISTIL_SECONDS = 600.0
"""Time for training where no limit is given."""

FEW_BITS = 1.6
"""Up to so many bits per weight training starts from float weights and few levels, not rounded."""

MOST_LEVELS = 256
"""Levels of a tensor with which training can start."""

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


class Work:
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
        self.probe: Probe | None = None
        self.rounding: Rounding | None = None
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

    # The stages.

    def _grid(self) -> None:
        """Plain grids: all that can be done without inputs, and where the rest starts from."""
        begin = self.progress.seconds
        self.progress.stage("grid", 14)
        weights = {name: p.detach() for name, p in self.parameters.items()}
        noise = noise_for(self.network) if weights else None
        if noise is not None:
            self.probe = Probe(self.network, self.parameters, noise)
        made: dict[float, Candidate] = {}

        def candidate(error: float) -> Candidate:
            if error not in made:
                books = self._grids(error)
                summary = self.judge.write(self.network, books)
                made[error] = self.judge.measure("grid", summary, weights)
                self._show()
                self.progress.step()
            return made[error]

        def size(error: float) -> int:
            self.progress.step()
            return self.judge.size(self.network, self._grids(error))

        if self.target_bytes is not None and weights:
            error = land_on_bytes(size, self.target_bytes, 0.1, FINEST, COARSEST)
            found = candidate(error)
            if COARSEST > error > FINEST and found.bytes < NEAR * self.target_bytes:
                books = self._filled_up(error, self.target_bytes)
                found = self.judge.measure("grid", self.judge.write(self.network, books), weights)
        elif self.max_drop is not None and weights:
            limit = self.max_drop

            def drop(error: float) -> float:
                return candidate(error).drop or 0.0

            found = candidate(land_on_drop(drop, limit, SAFE_ERROR, FINEST))
        elif self.probe is not None:
            probe = self.probe
            found = candidate(
                land_on_drop(
                    lambda error: probe.error(self._grids(error)), probe.safe, probe.safe**2, FINEST
                )
            )
        else:
            found = candidate(SAFE_ERROR)
        self._note("grid", found, begin)

    def _grids(self, error: float) -> dict[str, Codebook]:
        """Grids for an error of all tensors, by what the network makes of noise if that is known.

        Args:
            error: See `steps_of`.
        """
        weights = {name: p.detach() for name, p in self.parameters.items()}
        curvatures = None if self.probe is None else self.probe.curvatures
        return grid_codebooks(weights, error, self.transforms, curvatures)

    def _filled_up(self, error: float, target: int) -> dict[str, Codebook]:
        """Codebooks of finer steps, their cells priced, where grids alone jump over the target."""
        from hemp_lightning.training.trim import trim

        weights = {name: p.detach() for name, p in self.parameters.items()}
        for factor in (0.9, 0.75, 0.6, 0.45):
            finer = self._grids(factor * error)
            if self.judge.size(self.network, finer) > target:
                try:
                    return trim(weights, finer, target, lambda b: self.judge.size(self.network, b))
                except ValueError:
                    break
        return self._grids(error)

    def _round(self) -> None:
        """Second-order rounding, first by what the float network sees, then layer by layer."""
        assert self.training is not None
        begin = self.progress.seconds
        self.progress.stage("round", 16)
        rounding = Rounding(self.network, self.parameters, self.training, self.transforms)
        self.rounding = rounding
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
        start: int | dict[str, Codebook] = num_levels_for(bits)
        if self.rounding is not None and bits > FEW_BITS:
            network, books = self._rounded_to(self.rounding, target)
            if max(book.num_levels for book in books.values()) <= MOST_LEVELS:
                start = books
        books = distil(
            network, self.network, self.training, list(weights), target, start, self.distance,
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

    def _rounded_to(self, rounding: Rounding, target: int) -> tuple[nn.Module, dict[str, Codebook]]:
        """The network rounded by second order to about `target` bytes."""

        def size(price: float) -> int:
            return self.judge.size(*rounding.at_once(price))

        start = rounding.usual_price()
        return rounding.at_once(
            land_on_bytes(size, 1.05 * target, start, start * FINEST, start / FINEST, 0.95)
        )

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

            # by the weights as trained: what noise said was of the float ones
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
