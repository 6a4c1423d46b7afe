"""LSQ: quantization-aware training with a learned step size for each tensor.

By itself it writes its file when training has ended. Beside HEMPCallback it brings the grid: the
entropy term pulls on weights and steps, and the file is HEMP's.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.baselines.method import Method
from hemp_lightning.suite.baselines.weights import weights_of
from hemp_lightning.training.entropy_term import stepped_names
from hemp_lightning.training.quantized_forward import QuantizedForward


def lsq_gradients(
    weights: Tensor, step: Tensor, gradient: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss by the real weights and by the step.

    Source: Esser et al., Learned Step Size Quantization, ICLR 2020, equations 3 and 5 and the
    gradient scale of section 2.2.

    Args:
        weights: Real weights, any shape.
        step: Step size, a positive scalar.
        gradient: Gradient by the quantized weights, of the shape of `weights`.
        bits: Bits per weight.

    Returns:
        Gradient by the weights (of their shape) and by the step (scalar).

    Example:
        >>> w, g = torch.tensor([0.3, 9.0]), torch.tensor([1.0, 1.0])
        >>> by_weights, by_step = lsq_gradients(w, torch.tensor(1.0), g, bits=2)
        >>> by_weights.tolist(), round(float(by_step), 4)
        ([1.0, 0.0], 0.495)
    """
    low, high = lsq_range(bits)
    scaled = weights / step
    inside = (scaled > low) & (scaled < high)
    slope = torch.where(inside, scaled.round() - scaled, scaled.clamp(low, high))
    by_step = (gradient * slope).sum() / step_divisor(weights.numel(), bits)
    return gradient * inside, by_step


def rate_gradient(weights: Tensor, step: Tensor, gradient: Tensor) -> Tensor:
    """Gradient by the step of a rate that depends on `weights / step` alone.

    `dR/dstep = -(1 / step) * sum_t w_t dR/dw_t`: twice the step is as good as half the weights.

    Args:
        weights: Real weights, any shape.
        step: Step size, a positive scalar.
        gradient: Gradient of the rate by the weights, of their shape.

    Returns:
        A scalar.

    Example:
        >>> w, g = torch.tensor([0.5, -2.0]), torch.tensor([1.0, -3.0])
        >>> rate_gradient(w, torch.tensor(0.5), g)
        tensor(-13.)
    """
    return -(weights * gradient).sum() / step


def step_divisor(num_weights: int, bits: int) -> float:
    """What the gradient by a step is divided by, section 2.2 of the paper.

    Example:
        >>> step_divisor(12, 3)
        6.0
    """
    return float((num_weights * lsq_range(bits)[1]) ** 0.5)


def lsq_range(bits: int) -> tuple[int, int]:
    """Lowest and highest multiple of the step at so many bits.

    Example:
        >>> lsq_range(4)
        (-8, 7)
    """
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def on_grid(weights: Tensor, step: Tensor, bits: int) -> Tensor:
    """The nearest multiples of the step, within the range of so many bits.

    Example:
        >>> on_grid(torch.tensor([0.3, 0.8, 9.0]), torch.tensor(0.5), 2)
        tensor([0.5000, 0.5000, 0.5000])
    """
    low, high = lsq_range(bits)
    return (weights / step).round_().clamp_(low, high).mul_(step).to(weights.dtype)


class LSQ(Method):
    """Train through weights on a learned uniform grid, then write the file.

    In a Trainer's list before HEMPCallback it brings the grid, as a `GridOwner`: steps are learned
    from the loss and the rate, and HEMPCallback's file has the same levels.

    Args:
        path: The file to write; None for none, where HEMPCallback writes one.
        bits: Bits per weight, 2 to 8.
        first_last_bits: Bits in the first and the last layer, 8 in the paper.
        start_epoch: Epoch at which quantization sets in.
        step_lr: Learning rate of the steps, relative to their size; it follows the schedule of
            the weights' learning rate.
        coder: Name of the coder of the indices.
        name: What the results call it.

    Attributes:
        steps: The step of each tensor.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        bits: int = 3,
        first_last_bits: int = 8,
        start_epoch: int = 0,
        step_lr: float = 1e-3,
        coder: str = "context",
        name: str = "lsq",
    ) -> None:
        for argument, value in (("bits", bits), ("first_last_bits", first_last_bits)):
            if not 2 <= value <= 8:
                raise ValueError(f"`quantization.{argument}`: expected 2 to 8; found {value}")
        super().__init__(path, coder, name, num_levels=2**bits)
        self.start_epoch = start_epoch
        self.bits = bits
        self.first_last_bits = first_last_bits
        self.step_lr = step_lr
        self._forward = QuantizedForward()
        self._fitted: Any = None  # the LightningModule that the steps belong to, weakly
        self._reset()

    def _reset(self) -> None:
        """Forget an earlier fit."""
        self.steps: dict[str, Tensor] = {}
        self._weights: dict[str, nn.Parameter] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._saved: dict[str, Any] | None = None  # of the optimizer, from a checkpoint
        self._first_lr: float | None = None
        self._is_due = False  # gradients of the steps wait for the end of the batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with another network."""
        if stage == "fit":
            if self._fitted is not None and self._fitted() is not pl_module:
                self._reset()
            self._fitted = weakref.ref(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At `start_epoch`: choose the steps from the weights."""
        self._begin(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forward passes go through the quantized weights.

        A run resumed after the last batch of an epoch skips `on_train_epoch_start`.
        """
        self._begin(trainer, pl_module)
        self._enable(pl_module)

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Turn the gradients by quantized weights into those by weights and steps."""
        if self._optimizer is None:
            return
        weights = weights_of(pl_module)
        for name in stepped_names(optimizer, weights):
            weight, step = weights[name], self.steps[name]
            if weight.grad is not None:
                bits = self._bits(name)
                by_weights, step.grad = lsq_gradients(weight, step, weight.grad, bits)
                weight.grad.copy_(by_weights)
        share = optimizer.param_groups[0]["lr"] / max(self._first_lr or 0.0, 1e-12)
        for group in self._optimizer.param_groups:
            group["lr"] = group["first_lr"] * share
        self._is_due = True

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Learn the steps; forward passes are no longer quantized."""
        self._forward.enabled = False
        if self._is_due and self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad()
            for step in self.steps.values():
                step.clamp_(min=1e-8)
            self._is_due = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation runs on the quantized weights."""
        self._enable(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forward passes are no longer quantized."""
        self._forward.enabled = False

    on_test_start, on_test_end = on_validation_start, on_validation_end
    on_predict_start, on_predict_end = on_validation_start, on_validation_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the network as it was found."""
        self._forward.enabled = False
        self._forward.detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the network as it was found."""
        self.teardown(trainer, pl_module, "fit")

    def codebooks(self, pl_module: LightningModule) -> dict[str, Codebook]:
        """The grid of each tensor, its step in float16."""
        found = {}
        for name, step in self.steps.items():
            low, high = lsq_range(self._bits(name))
            grid = torch.arange(low, high + 1).float()
            half = step.detach().half()
            # two bytes where float16 has all of its digits
            held = half if half >= torch.finfo(torch.float16).tiny else step.detach()
            found[name] = Codebook(grid * float(held))
        return found

    def grids(self, pl_module: LightningModule) -> dict[nn.Parameter, Codebook | None]:
        """See `GridOwner`."""
        books = self.codebooks(pl_module)
        return {
            weight: books[name].to(weight.device) if name in books else None
            for name, weight in weights_of(pl_module).items()
        }

    @torch.no_grad()
    def add_rate(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """See `GridOwner`; both parts of a step's gradient are scaled as the paper scales it."""
        names = {id(weight): name for name, weight in self._weights.items()}
        for weight, gradient in gradients.items():
            name = names[id(weight)]
            step, divisor = self.steps[name], step_divisor(weight.numel(), self._bits(name))
            part = rate_gradient(weight, step, gradient) / divisor
            step.grad = part if step.grad is None else step.grad + part

    def state_dict(self) -> dict[str, Any]:
        """The steps and what their optimizer keeps."""
        optimizer = self._optimizer
        return {
            "steps": {name: step.detach() for name, step in self.steps.items()},
            "optimizer": optimizer.state_dict() if optimizer is not None else self._saved,
            "first_lr": self._first_lr,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.steps = state_dict["steps"]
        self._saved, self._first_lr = state_dict["optimizer"], state_dict["first_lr"]
        self._optimizer = None

    def _bits(self, name: str) -> int:
        names = list(self.steps)
        return self.first_last_bits if name in (names[0], names[-1]) else self.bits

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the steps and their optimizer, once."""
        if trainer.current_epoch < self.start_epoch or self._optimizer is not None:
            return
        self._weights = weights_of(pl_module)
        if not self.steps:  # else they came from a checkpoint
            self.steps = dict.fromkeys(self._weights, torch.empty(0))  # their order says the bits
            for name, weight in self._weights.items():
                _, high = lsq_range(self._bits(name))
                step = 2.0 * weight.detach().abs().mean() / high**0.5
                self.steps[name] = step.clamp(min=1e-8)
        self.steps = {k: s.to(pl_module.device).requires_grad_() for k, s in self.steps.items()}
        # One group a tensor: the learning rate is relative to the size of its step.
        groups = [{"params": [s], "lr": self.step_lr * s.item()} for s in self.steps.values()]
        self._optimizer = torch.optim.Adam(groups)
        for group in self._optimizer.param_groups:
            group["first_lr"] = group["lr"]
        if self._first_lr is None:
            self._first_lr = trainer.optimizers[0].param_groups[0]["lr"]
        if self._saved is not None:
            self._optimizer.load_state_dict(self._saved)

    def _enable(self, pl_module: LightningModule) -> None:
        if self._optimizer is None:
            return
        if not self._forward.is_attached(pl_module):
            self._forward.attach(pl_module, weights_of(pl_module))
        self._forward.quantizers = {
            name: partial(on_grid, step=step.detach(), bits=self._bits(name))
            for name, step in self.steps.items()
        }
        self._forward.enabled = True
