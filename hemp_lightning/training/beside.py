"""What stands beside HEMPCallback in a Trainer: grids of other callbacks, zeros that must stay.

A callback that learns a grid of its own brings it as a `GridOwner`: it goes on to show its weights
to forward passes, and learns its grid from the entropy term too. A callback with `keeps_zeros` set
holds weights at 0; they are then quantized themselves, since a cosine coefficient of 0 is no weight
of 0. A callback that no entropy term can act on says why in `without_term`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn.utils.prune import is_pruned

from hemp_lightning.quantization.codebook import Codebook


@runtime_checkable
class GridOwner(Protocol):
    """A callback that brings the codebooks of some weights and shows these to forward passes.

    It stands before HEMPCallback in the Trainer's list. `hemp_lightning.suite.baselines.LSQ` is
    one.
    """

    def grids(self, pl_module: LightningModule) -> Mapping[nn.Parameter, Codebook | None]:
        """The codebook of each weight that it quantizes, as it is now; None before there is one."""

    def add_rate(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """Take the gradient of the entropy term, for the grid to be learned from it as well.

        Called once per optimizer step, after the callback's own `on_before_optimizer_step`.

        Args:
            gradients: Loss units per unit of each weight, of the shape of the weight.
        """


def others(trainer: Trainer, callback: Callback) -> list[Callback]:
    """The other callbacks of a Trainer."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [other for other in found if other is not callback]


def check_beside(trainer: Trainer, callback: Callback) -> None:
    """Refuse callbacks that the entropy term of `callback` cannot act together with.

    Raises:
        ValueError: With the reason that the other callback gives.
    """
    for other in others(trainer, callback):
        reason = getattr(other, "without_term", None)
        if reason:
            raise ValueError(
                f"HEMPCallback needs weights that a rate can move; found {type(other).__name__}, "
                f"{reason}. Leave one of the two out"
            )


def grid_owner(trainer: Trainer, callback: Any) -> GridOwner | None:
    """The callback beside HEMPCallback that brings a grid, if there is one.

    Args:
        trainer: Its callbacks are looked through.
        callback: The HEMPCallback.

    Raises:
        ValueError: There are several, or it stands behind, or an argument means nothing with it.
    """
    beside = others(trainer, callback)
    owners = [other for other in beside if isinstance(other, GridOwner)]
    if not owners:
        return None
    name = type(owners[0]).__name__
    if len(owners) > 1:
        raise ValueError(
            f"HEMPCallback takes the grid of one callback; found {name} and "
            f"{type(owners[1]).__name__}. Leave one of the two out"
        )
    order: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if order.index(owners[0]) > order.index(callback):
        raise ValueError(
            f"`callbacks` must list {name} before HEMPCallback, whose gradient comes on top of "
            "the loss's; found it behind. Move it to the front"
        )
    if callback.forward == "continuous":
        raise ValueError(
            f"`forward` must be 'straight_through' with {name}, which shows quantized weights to "
            "every forward pass; found 'continuous'"
        )
    if callback.lambda_reconstruction:
        raise ValueError(
            f"`lambda_reconstruction` must be 0 with {name}, whose grid is learned from the loss "
            f"and the rate; found {callback.lambda_reconstruction}"
        )
    return owners[0]


def transform_beside(
    trainer: Trainer, callback: Callback, root: nn.Module, transform: str | Mapping[str, str]
) -> str | Mapping[str, str]:
    """What is done to kernels before they are quantized, where weights themselves must be seen.

    Args:
        trainer: Its callbacks are looked through.
        callback: The HEMPCallback.
        root: The module that is compressed; `torch.nn.utils.prune` may hold zeros in it.
        transform: What was asked for.

    Returns:
        `transform`, or `none` where weights are held at 0 or have a grid of their own.

    Raises:
        ValueError: Cosines were asked for by name.
    """
    reason = next(_reasons_for_weights(trainer, callback, root), None)
    if reason is None:
        return transform
    words = [transform] if isinstance(transform, str) else list(transform.values())
    if "dct" in words:
        raise ValueError(
            f"`transform` must be auto or none with {reason}; found dct, whose levels are those of "
            "cosine coefficients"
        )
    return "none"


def _reasons_for_weights(trainer: Trainer, callback: Callback, root: nn.Module) -> Iterator[str]:
    """Why weights themselves are quantized, in words."""
    for other in others(trainer, callback):
        if isinstance(other, ModelPruning) or getattr(other, "keeps_zeros", False):
            yield f"{type(other).__name__}, which holds weights at 0"
        if isinstance(other, GridOwner):
            yield f"{type(other).__name__}, whose grid is one of weights"
    if is_pruned(root):
        yield "torch.nn.utils.prune, which holds weights at 0"
