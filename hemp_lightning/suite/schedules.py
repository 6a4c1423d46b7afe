"""Learning-rate schedules over one or two phases of training.

A run first trains in float and then, from `start_epoch` on, with a compression method. Each phase
gets a schedule of its own: the learning rate starts again where the method starts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def configured(
    task: Any,
    optimizer: Callable[..., Optimizer],
    scheduler: Callable[[Optimizer, Sequence[int]], LRScheduler] | None,
    restart_epoch: int = 0,
) -> Any:
    """What `configure_optimizers` of a task returns: the schedule is stepped after each step.

    Args:
        task: A LightningModule that keeps what is trained as `network`, within a Trainer.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the schedule from the optimizer and the lengths of the phases in steps;
            None keeps the learning rate.
        restart_epoch: Epoch at which the second phase begins; 0 for one phase.
    """
    made = optimizer(task.network.parameters())
    if scheduler is None:
        return made
    steps = int(task.trainer.estimated_stepping_batches)
    epochs = max(task.trainer.max_epochs or 1, 1)
    first = min(restart_epoch, epochs) * steps // epochs
    schedule = scheduler(made, [first, steps - first])
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(
    optimizer: Optimizer,
    phases: Sequence[int],
    final: float = 0.0,
    warmup: float = 0.0,
    restart_factor: float = 1.0,
) -> LambdaLR:
    """Half a cosine in each phase, after an optional linear warm-up.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, one period a phase.

    Args:
        optimizer: Its learning rate is the highest of the first phase.
        phases: Length of each phase in optimizer steps.
        final: Learning rate at the end of a phase, as a share of the highest.
        warmup: Share of each phase in which the learning rate rises from near 0.
        restart_factor: Factor on the learning rate of all phases after the first.

    Returns:
        A scheduler to be stepped after each optimizer step.

    Example:
        >>> import torch
        >>> adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = cosine(adam, [2, 4])
        >>> [round(schedule.lr_lambdas[0](step), 3) for step in range(6)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146]
    """

    def shape(progress: float) -> float:
        if progress < warmup:
            return (progress + 1e-3) / (warmup + 1e-3)  # never 0: the first step must do something
        falling = (progress - warmup) / (1.0 - warmup)
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * falling))

    return _phased(optimizer, phases, shape, restart_factor)


def step(
    optimizer: Optimizer,
    phases: Sequence[int],
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
    restart_factor: float = 1.0,
) -> LambdaLR:
    """Multiply the learning rate by `factor` at each milestone of each phase.

    Args:
        optimizer: Its learning rate is the highest of the first phase.
        phases: Length of each phase in optimizer steps.
        milestones: Ascending shares of a phase, between 0 and 1.
        factor: What the learning rate is multiplied by.
        restart_factor: Factor on the learning rate of all phases after the first.

    Returns:
        A scheduler to be stepped after each optimizer step.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = step(sgd, [4])
        >>> [round(schedule.lr_lambdas[0](step), 3) for step in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """
    return _phased(
        optimizer, phases, lambda share: factor ** bisect_right(milestones, share), restart_factor
    )


def _phased(
    optimizer: Optimizer,
    phases: Sequence[int],
    shape: Callable[[float], float],
    restart_factor: float,
) -> LambdaLR:
    lengths = [length for length in phases if length > 0]

    def rate(step: int) -> float:
        start = 0
        for length in lengths:
            if step < start + length:
                break
            start += length
        else:  # one step more than planned: stay where the last phase ended
            start, step = start - lengths[-1], start - 1
        later = start > 0
        return shape((step - start) / length) * (restart_factor if later else 1.0)

    return LambdaLR(optimizer, rate)
