"""LSQ: quantization-aware training with a learned step size for each tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from hemp_lightning.file.save import save
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.baselines.weights import Stand, network_of, weight_tensors


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


class LSQ(Callback):
    """Train through weights on a learned uniform grid, then write the file.

    Args:
        path: The file to write.
        bits: Bits per weight, 2 to 8.
        first_last_bits: Bits in the first and the last layer, 8 in the paper.
        start_epoch: Epoch at which quantization sets in.
        step_lr: Learning rate of the steps, relative to their size; it follows the schedule of
            the weights' learning rate.
        coder: Name of the coder of the indices.

    Attributes:
        steps: The step of each tensor.
        summary: Sizes of the written file; None before the end of training.
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
        self.path = Path(path)
        self.bits = bits
        self.first_last_bits = first_last_bits
        self.start_epoch = start_epoch
        self.step_lr = step_lr
        self.coder = coder
        self.name = name
        self.num_levels = 2**bits
        self.summary: Any = None
        self.steps: dict[str, Tensor] = {}
        self._bits: dict[str, int] = {}
        self._stand = Stand()
        self._optimizer: torch.optim.Optimizer | None = None
        self._first_lr = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At `start_epoch`: choose the steps from the weights."""
        if trainer.current_epoch < self.start_epoch or self._optimizer is not None:
            return
        weights = weight_tensors(network_of(pl_module))
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

    def quantized(self, weights: dict[str, Any]) -> dict[str, Tensor]:
        """The weights on their grids."""
        values = {}
        for name, step in self.steps.items():
            low, high = lsq_range(self._bits[name])
            size = step.detach()
            values[name] = (weights[name].detach() / size).round().clamp(low, high) * size
        return values

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forward and backward go through the quantized weights."""
        self._put(pl_module)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The real weights come back."""
        self._stand.back()

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Turn the gradients by quantized weights into those by weights and steps."""
        if self._optimizer is None:
            return
        for name, weight in weight_tensors(network_of(pl_module)).items():
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

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation runs on the quantized weights."""
        self._put(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The real weights come back."""
        self._stand.back()

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The real weights come back."""
        self._stand.back()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, on one process."""
        codebooks = {}
        for name, step in self.steps.items():
            low, high = lsq_range(self._bits[name])
            grid = torch.arange(low, high + 1).float()
            codebooks[name] = Codebook(grid * float(step.detach().half()))
        if trainer.is_global_zero:
            self.summary = save(
                network_of(pl_module),
                self.path,
                codebooks=codebooks,
                coder=self.coder,
                float_dtype="steps",
                fold_norms=True,
                reorder_units=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """The steps go into checkpoints."""
        return {"steps": {name: step.detach() for name, step in self.steps.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the steps from a checkpoint."""
        self.steps = state_dict["steps"]

    def _put(self, pl_module: LightningModule) -> None:
        if self._optimizer is not None:
            weights = weight_tensors(network_of(pl_module))
            self._stand.put(weights, self.quantized(weights))
