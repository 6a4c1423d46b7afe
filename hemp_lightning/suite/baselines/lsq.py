"""LSQ: quantization-aware training with a learned step size for each tensor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.baselines.method import Method
from hemp_lightning.suite.baselines.weights import weights_of
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
    by_step = (gradient * slope).sum() / (weights.numel() * high) ** 0.5
    return gradient * inside, by_step


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

    Args:
        path: The file to write.
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
        path: str | Path,
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
        self.steps: dict[str, Tensor] = {}
        self._bits: dict[str, int] = {}
        self._forward = QuantizedForward()
        self._optimizer: torch.optim.Optimizer | None = None
        self._first_lr = 0.0

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
        for name, weight in weights_of(pl_module).items():
            if weight.grad is not None:
                step = self.steps[name]
                by_weights, step.grad = lsq_gradients(weight, step, weight.grad, self._bits[name])
                weight.grad.copy_(by_weights)
        share = optimizer.param_groups[0]["lr"] / max(self._first_lr, 1e-12)
        for group in self._optimizer.param_groups:
            group["lr"] = group["first_lr"] * share
        self._optimizer.step()
        for step in self.steps.values():
            step.clamp_(min=1e-8)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forward passes are no longer quantized."""
        self._forward.enabled = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation runs on the quantized weights."""
        self._enable(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forward passes are no longer quantized."""
        self._forward.enabled = False

    on_test_start, on_test_end = on_validation_start, on_validation_end

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
        """The grid of each tensor."""
        found = {}
        for name, step in self.steps.items():
            low, high = lsq_range(self._bits[name])
            grid = torch.arange(low, high + 1).float()
            found[name] = Codebook(grid * float(step.detach().half()))
        return found

    def state_dict(self) -> dict[str, Any]:
        """The steps go into checkpoints."""
        return {"steps": {name: step.detach() for name, step in self.steps.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the steps from a checkpoint."""
        self.steps = state_dict["steps"]

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the steps and their optimizer, once."""
        if trainer.current_epoch < self.start_epoch or self._optimizer is not None:
            return
        weights = weights_of(pl_module)
        names = list(weights)
        self._bits = {
            name: self.first_last_bits if name in (names[0], names[-1]) else self.bits
            for name in names
        }
        if not self.steps:  # else they came from a checkpoint
            for name, weight in weights.items():
                _, high = lsq_range(self._bits[name])
                step = 2.0 * weight.detach().abs().mean() / high**0.5
                self.steps[name] = step.clamp(min=1e-8)
        self.steps = {k: s.to(pl_module.device).requires_grad_() for k, s in self.steps.items()}
        # One group a tensor: the learning rate is relative to the size of its step.
        groups = [{"params": [s], "lr": self.step_lr * s.item()} for s in self.steps.values()]
        self._optimizer = torch.optim.Adam(groups)
        for group in self._optimizer.param_groups:
            group["first_lr"] = group["lr"]
        self._first_lr = trainer.optimizers[0].param_groups[0]["lr"]

    def _enable(self, pl_module: LightningModule) -> None:
        if self._optimizer is None:
            return
        if not self._forward.is_attached(pl_module):
            self._forward.attach(pl_module, weights_of(pl_module))
        self._forward.quantizers = {
            name: partial(on_grid, step=step.detach(), bits=self._bits[name])
            for name, step in self.steps.items()
        }
        self._forward.enabled = True
