"""Pruning: weights set to exactly 0, and held there, while any other method goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from hemp_lightning.suite.baselines.weights import network_of, weights_of

SCOPES = ("tensor", "network")


def magnitude_masks(
    weights: Mapping[str, Tensor], share: float, scope: str = "network"
) -> dict[str, Tensor]:
    """Masks that drop the given share of the weights, those of least magnitude.

    Args:
        weights: Tensors by name.
        share: Share to drop, 0 or more and less than 1; rounded down to whole weights.
        scope: `"tensor"`: that share of each tensor; `"network"`: of all together.

    Returns:
        For each tensor a bool tensor of its shape, True where a weight stays.

    Example:
        >>> masks = magnitude_masks({"w": torch.tensor([0.1, -3.0, 2.0, -0.2])}, 0.5)
        >>> masks["w"].tolist()
        [False, True, True, False]
    """
    if scope == "tensor":
        flat = {name: largest(weight.abs().flatten(), share) for name, weight in weights.items()}
        return {name: flat[name].view(weight.shape) for name, weight in weights.items()}
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    parts = largest(magnitudes, share).split([weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def cubic_share(progress: float, share: float) -> float:
    """Share to drop on the way to `share`: fast at first, slow at the end.

    Source: Zhu and Gupta, To prune, or not to prune, 2017, equation 1, from an initial share of 0.

    Example:
        >>> round(cubic_share(0.5, 0.8), 6)
        0.7
    """
    return share * (1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3)


class Pruning(Callback):
    """What all pruning has in common: masks, applied after each optimizer step.

    Parameter names and state-dict keys are never changed.

    Args:
        name: What the results call it.

    Attributes:
        masks: For each pruned tensor a bool tensor, True where an entry stays; by its name in the
            network.
        keeps_zeros: Tells HEMPCallback to quantize the weights themselves, not cosines.
    """

    keeps_zeros = True

    def __init__(self, name: str = "pruning") -> None:
        self.name = name
        self.masks: dict[str, Tensor] = {}

    @torch.no_grad()
    def apply_masks(self, pl_module: LightningModule) -> None:
        """Set the masked entries to 0."""
        parameters = dict(network_of(pl_module).named_parameters())
        for name, mask in self.masks.items():
            parameters[name].mul_(mask.to(parameters[name].device))

    def kept_share(self) -> float:
        """Share of the weights that stay; 1 before anything was pruned."""
        weights = [mask for mask in self.masks.values() if mask.ndim > 1]
        kept = sum(int(mask.sum()) for mask in weights)
        return kept / max(1, sum(mask.numel() for mask in weights)) if weights else 1.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The optimizer may have moved pruned weights: back to 0."""
        self.apply_masks(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of weights that stay."""
        pl_module.log("pruning/kept", self.kept_share())

    def state_dict(self) -> dict[str, Any]:
        """The masks go into checkpoints."""
        return {"masks": self.masks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the masks from a checkpoint."""
        self.masks = state_dict["masks"]


class MagnitudePruning(Pruning):
    """Drop the weights of least magnitude, at once or gradually.

    Args:
        share: Share of the weights to drop.
        scope: `"network"` ranks all weights together, `"tensor"` each tensor by itself.
        start_epoch: Epoch at which pruning starts.
        end_epoch: Epoch from which on the full share is dropped; equal to `start_epoch`: at once.
            Between the two the share follows `cubic_share`.
        every_n_steps: Steps between two updates of the masks on the way.
    """

    def __init__(
        self,
        share: float = 0.9,
        scope: str = "network",
        start_epoch: int = 0,
        end_epoch: int | None = None,
        every_n_steps: int = 50,
        name: str = "magnitude",
    ) -> None:
        super().__init__(name)
        if not 0.0 <= share < 1.0:
            raise ValueError(f"`pruning.share`: expected 0 or more and less than 1; found {share}")
        if scope not in SCOPES:
            raise ValueError(f"`pruning.scope`: expected one of {SCOPES}; found {scope!r}")
        end_epoch = start_epoch if end_epoch is None else end_epoch
        if end_epoch < start_epoch:
            raise ValueError(
                f"`pruning.end_epoch`: expected {start_epoch} (`start_epoch`) or more; "
                f"found {end_epoch}"
            )
        self.share = share
        self.scope = scope
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.every_n_steps = every_n_steps
        self._last_share = 0.0

    def share_at(self, epoch: float) -> float:
        """Share to drop at a point of training, in epochs and fractions of them."""
        if epoch < self.start_epoch:
            return 0.0
        if epoch >= self.end_epoch:
            return self.share
        progress = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        return cubic_share(progress, self.share)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Update the masks where that is due; the last update is at `end_epoch`."""
        due = batch_idx % self.every_n_steps == 0
        epoch = trainer.current_epoch + batch_idx / max(1, float(trainer.num_training_batches))
        share = self.share_at(epoch)
        if due and self._last_share < share:
            self.masks = self.masks_for(pl_module, share)
            self.apply_masks(pl_module)
            self._last_share = share

    def masks_for(self, pl_module: LightningModule, share: float) -> dict[str, Tensor]:
        """Masks that drop a share of what the network is made of now."""
        weights = {name: weight.detach() for name, weight in weights_of(pl_module).items()}
        return magnitude_masks(weights, share, self.scope)

    def state_dict(self) -> dict[str, Any]:
        """The masks, and the share that they drop."""
        return {**super().state_dict(), "share": self._last_share}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them from a checkpoint."""
        super().load_state_dict(state_dict)
        self._last_share = state_dict["share"]


class KeepZeros(Pruning):
    """Hold every weight at 0 that is 0 when training begins: of a network that was pruned before.

    Example:
        `python run.py model.checkpoint=pruned/model.hemp pruning=keep_zeros`
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look where the zeros are; a resumed run knows.

        Raises:
            ValueError: There are none.
        """
        if self.masks:
            return
        self.masks = {name: (w != 0).detach() for name, w in weights_of(pl_module).items()}
        if self.kept_share() == 1.0:
            raise ValueError(
                "`pruning=keep_zeros`: expected a network with weights that are 0; found none. "
                "Type model.checkpoint=FILE of a pruned run"
            )


def largest(magnitudes: Tensor, share: float) -> Tensor:
    """True for all but the int(share * n) smallest entries; of equal ones the first are kept.

    Args:
        magnitudes: `(n,)`.
        share: Share to drop, 0 or more and less than 1.

    Returns:
        bool, `(n,)`.

    Example:
        >>> largest(torch.tensor([3.0, 1.0, 2.0]), 0.4)
        tensor([ True, False,  True])
    """
    count = magnitudes.numel()
    keep = torch.ones(count, dtype=torch.bool, device=magnitudes.device)
    order = magnitudes.argsort(stable=True, descending=True)
    keep[order[count - int(share * count) :]] = False
    return keep
