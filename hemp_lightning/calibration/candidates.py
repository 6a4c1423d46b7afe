"""Candidates: files that might be the answer, measured by what comes back out of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hemp_lightning.calibration.distances import Distance, Drop, output_tensors
from hemp_lightning.calibration.grids import relative_errors
from hemp_lightning.calibration.inputs import Call, Inputs
from hemp_lightning.file.load import load_into
from hemp_lightning.file.save import save
from hemp_lightning.quantization.codebook import Codebook
from hemp_reader.summary import Summary

NEAR = 0.98
"""Share of the wanted bytes that counts as landed."""


@dataclass(frozen=True)
class Candidate:
    """A file and what became of the network in it.

    Attributes:
        stage: Stage that made it.
        file: Where it lies for now.
        summary: Its sizes.
        drop: Its disagreement with the float network on held-back inputs; None without inputs.
        distance: The training loss on them, finer than `drop`; 0 without inputs.
        errors: Relative error of each quantized tensor.
    """

    stage: str
    file: Path
    summary: Summary
    drop: float | None
    distance: float
    errors: dict[str, float]

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.summary.file_bytes


class Judge:
    """Writes candidates, measures them and keeps the best.

    Args:
        network: The float network, in float32 and evaluation mode.
        dtypes: Dtype of each tensor in the file.
        held_back: Inputs to measure on, or None.
        distance: The user's own measure, or None.
        target_bytes: The most bytes that the file may have, or None.
        max_drop: The most disagreement that it may have, or None.
        folder: Where candidates lie.

    Attributes:
        best: The best candidate so far, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        dtypes: Mapping[str, torch.dtype],
        held_back: Inputs | None,
        distance: Distance | None,
        target_bytes: int | None,
        max_drop: float | None,
        folder: Path,
    ) -> None:
        self._network = network
        self._dtypes = dtypes
        self._held_back = held_back
        self._distance = distance
        self._target_bytes = target_bytes
        self._max_drop = max_drop
        self._folder = folder
        self._count = 0
        self.best: Candidate | None = None
        self._wanted: list[Any] = []
        if held_back is not None:
            self._wanted = list(outputs_of(network, held_back))

    def write(self, network: nn.Module, codebooks: Mapping[str, Codebook]) -> Summary:
        """Write the network with these codebooks as a file of its own."""
        self._count += 1
        return self._write(network, codebooks, self._folder / f"{self._count}.hemp")

    def size(self, network: nn.Module, codebooks: Mapping[str, Codebook]) -> int:
        """Bytes of the file that `write` would leave."""
        return self._write(network, codebooks, self._folder / "size.hemp").file_bytes

    def _write(self, network: nn.Module, codebooks: Mapping[str, Codebook], file: Path) -> Summary:
        if any(dtype in (torch.float16, torch.bfloat16) for dtype in self._dtypes.values()):
            network = copy.deepcopy(network)
            for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
                tensor.data = tensor.data.to(self._dtypes.get(name, tensor.dtype))
        # without inputs nobody sees what coarser biases and norms would do
        float_dtype = "float16" if self._held_back is None else "steps"
        books = {name: book.to("cpu") for name, book in codebooks.items()}
        return save(network, file, codebooks=books, float_dtype=float_dtype, fold_norms=True)

    def measure(self, stage: str, summary: Summary, weights: Mapping[str, Tensor]) -> Candidate:
        """The candidate that a written file is; kept if it is the best so far.

        Args:
            stage: Stage that made it.
            summary: Of the file.
            weights: Float weights that its quantized tensors stand for, by name.
        """
        network = copy.deepcopy(self._network)
        load_into(network, summary.path)
        drop = self.drop(network) if self._held_back is not None else None
        candidate = Candidate(
            stage=stage,
            file=Path(summary.path),
            summary=summary,
            drop=None if drop is None else drop.value,
            distance=0.0 if drop is None else drop.distance,
            errors=relative_errors(weights, dict(network.named_parameters())),
        )
        if self.best is None or self._is_better(candidate, self.best):
            self.best = candidate
        return candidate

    @torch.no_grad()
    def drop(self, network: nn.Module) -> Drop:
        """Disagreement of `network` on the held-back inputs."""
        assert self._held_back is not None
        drop = Drop(self._distance)
        for outputs, wanted in zip(outputs_of(network, self._held_back), self._wanted, strict=True):
            drop.add(outputs, wanted)
        return drop

    def fits(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the target."""
        if self._target_bytes is not None:
            return candidate.bytes <= self._target_bytes
        return self._max_drop is None or candidate.drop is None or candidate.drop <= self._max_drop

    def _is_better(self, one: Candidate, other: Candidate) -> bool:
        if self.fits(one) != self.fits(other):
            return self.fits(one)
        if self._target_bytes is not None:
            if not self.fits(one):
                return one.bytes < other.bytes
            near = NEAR * self._target_bytes
            if one.drop is None:
                return one.bytes > other.bytes
            if (one.bytes >= near) != (other.bytes >= near) and one.stage == other.stage:
                return one.bytes >= near
            return (one.drop, one.distance) < (other.drop or 0.0, other.distance)
        if not self.fits(one) and one.drop is not None and other.drop is not None:
            return one.drop < other.drop
        return one.bytes < other.bytes


@torch.no_grad()
def outputs_of(network: nn.Module, inputs: Inputs) -> Any:
    """Outputs of a network in evaluation mode, batch by batch."""
    device = next(network.parameters()).device
    network.eval()
    for call in inputs.batches():
        yield on(call, device)(network)


def on(call: Call, device: torch.device) -> Call:
    """A call with its tensors on `device`."""
    return call.map(lambda tensor: tensor.to(device))


@torch.no_grad()
def check_network(network: nn.Module, inputs: Inputs) -> Any:
    """Outputs for the first batch, once it is sure that they can be compared.

    Raises:
        ValueError: If the network does not take the inputs, gives NaN, or gives different outputs
            for the same inputs.
    """
    call = on(next(inputs.batches()), next(network.parameters()).device)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in call.tensors()) or "no tensor"
    try:
        first, second = call(network), call(network)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"`inputs` must be what {type(network).__name__} takes; found tensors of shape "
            f"{shapes}, at which it says: {reason}"
        ) from error
    ours, again = output_tensors(first), output_tensors(second)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in ours):
        raise ValueError(
            f"outputs of {type(network).__name__} must be finite on `inputs`; found NaN or "
            "infinity. Check how the inputs are normalized, and the checkpoint"
        )
    same = [one.shape == two.shape and bool(torch.isclose(one, two, rtol=1e-3, atol=1e-5).all())
            for one, two in zip(ours, again, strict=False)]  # fmt: skip
    if len(ours) != len(again) or not all(same):
        raise ValueError(
            f"{type(network).__name__} must give the same outputs for the same inputs in "
            "evaluation mode; found different ones in two passes. Take out what draws random "
            "numbers there"
        )
    return first
