"""How a training approaches its target: when `lambda_control.py` is asked, and with what."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from types import NoneType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from hemp_lightning.entropy.formula import index_entropy
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.training.lambda_control import MAX_FACTOR, LambdaControl
from hemp_lightning.training.trim import trim
from hemp_reader.summary import Summary

STEERED_PER_EPOCH = 20
LANDING = 0.5
"""Share of training after which codebooks stay, if there is a size to land on."""


@dataclass(frozen=True)
class Measured:
    """What a file would have weighed at some step, and the entropy of its indices then."""

    coded_bytes: float
    other_bytes: float
    rate: float

    def scaled_to(self, rate: float) -> float:
        """Bytes of the file at another rate."""
        return self.other_bytes + self.coded_bytes * rate / max(self.rate, 1e-12)


class Approach:
    """The factor on lambda of a training that is to end at a file size or at an accuracy.

    Args:
        target_bytes: Wanted size of the file, or None.
        target_accuracy: Wanted value of `monitor`, in (0, 1), or None.
        monitor: Logged metric of the validation.
        lambda_entropy: Where lambda starts, above 0 if there is a target.

    Raises:
        TypeError: If a target is no number.
        ValueError: If an argument is out of range.

    Example:
        >>> Approach(1000, None, "val/accuracy", 0.1).factor
        1.0
    """

    def __init__(
        self,
        target_bytes: int | None,
        target_accuracy: float | None,
        monitor: str,
        lambda_entropy: float,
    ) -> None:
        if target_bytes is not None and target_accuracy is not None:
            raise ValueError(
                "`target_bytes` and `target_accuracy`: expected at most one of the two, as lambda "
                "is one number; found both"
            )
        for name, value in (("target_bytes", target_bytes), ("target_accuracy", target_accuracy)):
            if not isinstance(value, (Real, NoneType)) or isinstance(value, bool):
                raise TypeError(f"`{name}` must be a number or None; found {value!r}")
        if target_bytes is not None and not 0 < target_bytes < float("inf"):
            raise ValueError(f"`target_bytes` must be above 0; found {target_bytes}")
        if target_accuracy is not None and not 0 < target_accuracy < 1:
            raise ValueError(
                f"`target_accuracy` must be between 0 and 1, not in percent; found "
                f"{target_accuracy}"
            )
        if (target_bytes or target_accuracy) and not lambda_entropy:
            raise ValueError(
                "`lambda_entropy` must be above 0 with a target: it is where lambda starts; found 0"
            )
        self.target_bytes = target_bytes
        self.target_accuracy = target_accuracy
        self.monitor = monitor
        self._control = LambdaControl()
        self._first_step: int | None = None  # the optimizer step at which the terms set in
        self._measured: Measured | None = None

    @property
    def factor(self) -> float:
        """What `lambda_entropy` is multiplied with now."""
        return self._control.factor

    def check(self, trainer: Trainer) -> None:
        """Refuse a training in which the target cannot be steered to.

        Raises:
            ValueError: If there are several optimizers, no end or no validation.
        """
        if self.target_bytes is not None:
            if len(trainer.optimizers) > 1:
                raise ValueError(
                    "`target_bytes` needs one optimizer, whose steps share one lambda; found "
                    f"{len(trainer.optimizers)}. Set `lambda_entropy` by hand"
                )
            if not 0 <= trainer.estimated_stepping_batches < float("inf"):
                raise ValueError(
                    "`target_bytes` needs a training with an end, to be there in time; found "
                    "neither `max_steps` nor `max_epochs` of a known length. Give the Trainer "
                    "`max_steps`"
                )
        if self.target_accuracy is not None and not trainer.enable_validation:
            raise ValueError(
                "`target_accuracy` needs a validation of each epoch; found none. Give a "
                "validation set, or set `lambda_entropy` by hand"
            )

    def check_least(self, num_bytes: int) -> None:
        """Refuse a target below what the file takes with all weights at 0.

        Args:
            num_bytes: Bytes of that file.

        Raises:
            ValueError: If `target_bytes` is less.
        """
        if self.target_bytes is not None and num_bytes > self.target_bytes:
            raise ValueError(
                f"`target_bytes` must be at least the {num_bytes:,} bytes that the file takes with "
                f"all weights at 0; found {self.target_bytes:,}. Raise it, or write less: "
                "`tensors`='layers', `float_dtype`='steps'"
            )

    def measure(self, summary: Summary, coded: Collection[str], rate: float) -> None:
        """Note what the file would weigh now.

        Args:
            summary: Of the file.
            coded: Names of the tensors whose bytes follow the rate.
            rate: Entropy of their indices, bits per weight.
        """
        num_bytes = sum(tensor.bytes for tensor in summary.tensors if tensor.name in coded)
        self._measured = Measured(num_bytes, summary.file_bytes - num_bytes, rate)
        target = self.target_bytes or float("inf")
        if self._control.factor >= MAX_FACTOR and summary.file_bytes > target:
            rank_zero_warn(  # without numbers that change: each epoch would tell it again
                f"Lambda is at {MAX_FACTOR:.0f} times `lambda_entropy`, and the file still above "
                f"`target_bytes` {target:,}: the levels hold it up, or `lambda_entropy` is far too "
                "low. `quantizer`='uniform' has a wide cell at 0, where weights can gather"
            )

    def follow_bytes(self, trainer: Trainer, rate: Callable[[], float]) -> None:
        """Move the factor by the size that the file would have, some times in an epoch.

        Args:
            trainer: Says how far the training is.
            rate: Counts the entropy of the indices, bits per weight.
        """
        if self._first_step is None:
            self._first_step = trainer.global_step
        if self.target_bytes is None:
            return
        if self._measured is None or trainer.global_step % steering_interval(trainer):
            return  # counting indices takes time: not at each step
        num_bytes = self._measured.scaled_to(rate())
        progress = self._progress(trainer)
        self._control = self._control.by_bytes(num_bytes, self.target_bytes, progress)

    def is_landing(self, trainer: Trainer) -> bool:
        """Whether codebooks stay: a refit moves the size by up to an eighth, now too late."""
        return self.target_bytes is not None and self._progress(trainer) >= LANDING

    def _progress(self, trainer: Trainer) -> float:
        """Share of the training with the terms that is done; 0 where there is no end."""
        if self._first_step is None:
            return 0.0
        last = trainer.estimated_stepping_batches * len(trainer.optimizers)
        if not 0 <= last < float("inf"):
            return 0.0
        return (trainer.global_step - self._first_step) / max(1, last - self._first_step)

    def follow_accuracy(self, trainer: Trainer) -> None:
        """Move the factor by the accuracy of the validation that has just ended.

        Raises:
            ValueError: If `monitor` was not logged, or is no accuracy.
        """
        if self.target_accuracy is None:
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            found = ", ".join(metrics) or "none"
            raise ValueError(
                f"`monitor` must be a logged metric of the validation; found {self.monitor!r}, "
                f"which is not among {found}"
            )
        accuracy = float(trainer.strategy.reduce(metrics[self.monitor]))
        if not 0 <= accuracy <= 1:
            raise ValueError(
                f"`monitor` must be an accuracy between 0 and 1 for `target_accuracy`; found "
                f"{self.monitor!r} = {accuracy:.4g}"
            )
        progress = self._progress(trainer)
        self._control = self._control.by_accuracy(accuracy, self.target_accuracy, progress)

    def land(
        self,
        weights: Mapping[str, Tensor],
        codebooks: Mapping[str, Codebook],
        num_bytes: Callable[[Mapping[str, Codebook]], int],
    ) -> dict[str, Codebook]:
        """Codebooks whose file is not above `target_bytes`, see `trim`; else the same."""
        if self.target_bytes is None:
            return dict(codebooks)
        found = num_bytes(codebooks)
        if found <= self.target_bytes:
            return dict(codebooks)
        if found > 1.1 * self.target_bytes:
            rank_zero_warn(
                f"Training ended at {found:,} bytes, more than a tenth above `target_bytes` "
                f"{self.target_bytes:,}: the rest is cut off now, without training after it. More "
                "epochs, a higher `lambda_entropy` or `quantizer`='uniform' keep more accuracy"
            )
        return trim(weights, codebooks, self.target_bytes, num_bytes)

    def state_dict(self) -> dict[str, Any]:
        """How far lambda was steered."""
        return {
            "first_step": self._first_step,
            "control": asdict(self._control),
            "measured": None if self._measured is None else asdict(self._measured),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._first_step = state_dict["first_step"]
        if self.target_bytes is not None or self.target_accuracy is not None:
            self._control = LambdaControl(**state_dict["control"])
        measured = state_dict["measured"]
        self._measured = None if measured is None else Measured(**measured)


def steering_interval(trainer: Trainer) -> int:
    """Optimizer steps from one look at the size to the next, `STEERED_PER_EPOCH` an epoch.

    Epochs without an end are taken to last as long as the training.

    Example:
        >>> from types import SimpleNamespace
        >>> steering_interval(
        ...     SimpleNamespace(num_training_batches=480, accumulate_grad_batches=8, max_steps=-1)
        ... )
        3
    """
    steps = trainer.num_training_batches / trainer.accumulate_grad_batches
    if steps == float("inf"):
        steps = trainer.max_steps
    return max(1, int(steps) // STEERED_PER_EPOCH)


def index_rate(
    weights: Mapping[str, Tensor], codebooks: Mapping[str, Codebook], order: int, scan: str
) -> float:
    """Entropy of the indices of all tensors, in bits per weight.

    Args:
        weights: Weights by name, any shapes.
        codebooks: Codebooks by the same names.
        order: Length n of the tuples.
        scan: Scan order, one of `hemp_reader.scan_order.SCANS`.

    Example:
        >>> import torch
        >>> book = Codebook(torch.tensor([0.0, 1.0]))
        >>> index_rate({"a": torch.tensor([0.0, 1.0, 0.0, 1.0])}, {"a": book}, 1, "row_major")
        1.0
    """
    bits = count = 0.0
    for name, tensor in weights.items():
        indices = codebooks[name].assign(tensor)
        num_levels = codebooks[name].num_levels
        bits += tensor.numel() * index_entropy(indices, num_levels, order, scan=scan)
        count += tensor.numel()
    return bits / count
