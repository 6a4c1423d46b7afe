"""What HEMPCallback refuses: arguments out of range, and trainings that cannot work with it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.optim import LBFGS

from hemp_lightning.entropy.context_lengths import RATE_MODELS
from hemp_lightning.entropy.formula import SCOPES
from hemp_lightning.file.options import FileOptions

FORWARDS = ("straight_through", "continuous")
INTEGERS = (
    "order",
    "start_epoch",
    "refit_every_n_epochs",
    "refit_every_n_steps",
    "recalibrate_batches",
)
NUMBERS = (*INTEGERS, "lambda_entropy", "lambda_reconstruction", "warmup_epochs")
WORDS = {"rate_model": RATE_MODELS, "scope": SCOPES, "forward": FORWARDS}
SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
AVERAGING = ("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging")

CONTEXT_LEVELS = 256
"""The most levels that the context coder has code lengths for."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse words that are not known, and numbers out of range.

    Args:
        arguments: Those of HEMPCallback by name, and others that are not looked at.

    Raises:
        TypeError: If one is of another kind.
        ValueError: With the argument, what is allowed, and what was found.

    Example:
        >>> from hemp_lightning import HEMPCallback
        >>> check_arguments(vars(HEMPCallback(order=2)))
    """
    kinds: tuple[tuple[str, Any, str], ...] = (
        *((name, Integral, "an integer") for name in INTEGERS),
        *((name, Real, "a number") for name in NUMBERS),
        ("insensitivity", bool, "True or False"),
        ("module", (str, NoneType), "the name of a submodule or None"),
        ("file", FileOptions, "`FileOptions`"),
    )
    for name, kind, words in kinds:
        value = arguments[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"`{name}` must be {words}; found {value!r}")
    for name in NUMBERS:
        low, value = 1 if name == "order" else 0, arguments[name]
        if not low <= value < float("inf"):
            raise ValueError(f"`{name}` must be finite and at least {low}; found {value}")
    for name, allowed in WORDS.items():
        if arguments[name] not in allowed:
            raise ValueError(
                f"`{name}` must be one of {', '.join(allowed)}; found {arguments[name]!r}"
            )
    start, end = arguments["start_epoch"], arguments["end_epoch"]
    if end is not None and (not isinstance(end, Integral) or end <= start):
        raise ValueError(
            f"`end_epoch` must be None or an integer above `start_epoch`, {start}; found {end!r}"
        )
    num_levels = arguments["num_levels"]
    if arguments["rate_model"] == "context" and num_levels > CONTEXT_LEVELS:
        raise ValueError(
            f"`num_levels` must be at most {CONTEXT_LEVELS} with `rate_model`='context'; found "
            f"{num_levels}. Take fewer levels, or `rate_model`='tuples'"
        )


def check_trainer(trainer: Trainer) -> None:
    """Refuse a Trainer whose strategy or callbacks HEMPCallback cannot work with; warn of others.

    Raises:
        ValueError: With what was found, and what to do.
    """
    strategy = type(trainer.strategy).__name__
    if strategy in SHARDED:
        raise ValueError(
            f"HEMPCallback needs whole parameters on every process; found {strategy}, which "
            "shards them. Use strategy='ddp' or one device"
        )
    if type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher":
        rank_zero_warn(
            "HEMPCallback works in the processes that the Trainer starts, and its `summary` and "
            "`codebooks` end with them; found a strategy that spawns or forks. The file is "
            "written; `hemp_lightning.inspect` sums it up. `strategy`='ddp' keeps all"
        )
    averaging = [
        type(callback).__name__
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if any(base.__name__ in AVERAGING for base in type(callback).__mro__)
    ]
    if averaging:
        raise ValueError(
            "HEMPCallback trains the weights that the file gets, on their levels; found "
            f"{averaging[0]}, which puts averages between the levels in their place. "
            "Leave it out, or average before `start_epoch` in a run of its own"
        )


def check_training(trainer: Trainer, warmup_epochs: float) -> None:
    """Refuse optimizers and loaders that HEMPCallback cannot work with.

    Raises:
        ValueError: With what was found, and what to do.
    """
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "HEMPCallback adds its gradient once per optimizer step; found LBFGS, which "
                "evaluates the loss several times a step. Use a first-order optimizer"
            )
    if warmup_epochs and trainer.num_training_batches == float("inf"):
        raise ValueError(
            "`warmup_epochs` must be 0 where epochs have no end; found "
            f"{warmup_epochs} and a training loader without a length. Set `limit_train_batches`"
        )


def submodule(pl_module: LightningModule, name: str | None) -> nn.Module:
    """The part of a LightningModule that is trained and written; itself for None.

    Raises:
        ValueError: If there is none of that name.
    """
    if name is None:
        return pl_module
    try:
        return pl_module.get_submodule(name)
    except AttributeError:
        names = ", ".join(child for child, _ in pl_module.named_children())
        raise ValueError(
            f"`module` must be a submodule of {type(pl_module).__name__}, one of {names}; "
            f"found {name!r}"
        ) from None
