"""The part of a network that is trained on levels: its parameters, codebooks and forward passes."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from hemp_lightning.entropy.context_lengths import ContextRates
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import Quantizer
from hemp_lightning.quantization.transforms import asked_transform
from hemp_lightning.training.arguments import submodule
from hemp_lightning.training.beside import (
    GridOwner,
    check_beside,
    grid_owner,
    transform_beside,
)
from hemp_lightning.training.chosen import ChosenTensors
from hemp_lightning.training.direct_use import used_directly
from hemp_lightning.training.fit_transformed import fit_transformed
from hemp_lightning.training.quantized_forward import QuantizedForward, quantize_like
from hemp_reader.errors import listed

SEARCHED = 8
"""Graphs of a loss that are searched for weights in use that are not quantized."""


class QuantizedNetwork:
    """The chosen parameters of a network, with a codebook for each.

    Args:
        module: Name of the submodule that counts; None for the whole LightningModule.
        tensors: What is chosen in it, see `select_tensors`.
        quantizer: Fits the codebooks.
        transform: Of the kernels, see HEMPCallback.
        takes_rates: Whether code lengths of the context coder are taken with the codebooks.

    Attributes:
        codebooks: Codebook of each chosen parameter, by name; empty before the first fit.
        forward: Lets forward passes see quantized weights.
        rates: The code lengths; None without them.

    Codebooks of weights for which a `GridOwner` beside the callback has a grid are the owner's, and
    it is the owner that shows these weights to forward passes, until `settle`.
    """

    def __init__(
        self,
        module: str | None,
        tensors: str | Sequence[str],
        quantizer: Quantizer,
        transform: str | Mapping[str, str],
        takes_rates: bool,
    ) -> None:
        self.codebooks: dict[str, Codebook] = {}
        self.forward = QuantizedForward()
        self.rates = ContextRates() if takes_rates else None
        self._module = module
        self._quantizer = quantizer
        self._transform = transform
        self._chosen = ChosenTensors(tensors)
        self._warned = self._told = False
        self._searched = 0  # graphs of a loss
        self._owner: Any = None  # the LightningModule that the codebooks belong to, weakly
        self._grid: GridOwner | None = None
        self._shared: dict[str, Codebook | None] = {}  # what it brings, by name
        self._settled: set[str] = set()  # names of what it has brought

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The chosen parameters, by name."""
        return self._chosen.parameters

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Those of them that are trained."""
        return {name: p for name, p in self.parameters.items() if p.requires_grad}

    def root(self, pl_module: LightningModule) -> nn.Module:
        """The part of `pl_module` whose parameters are chosen."""
        return submodule(pl_module, self._module)

    def own(self, pl_module: LightningModule | None) -> None:
        """Let the codebooks belong to `pl_module`; None for the one that is followed next."""
        self._owner = None if pl_module is None else weakref.ref(pl_module)

    def join(self, trainer: Trainer, callback: Any, pl_module: LightningModule) -> None:
        """Begin with `pl_module`, beside the other callbacks of the Trainer.

        Grids come from the one that brings some, and zeros stay that another holds.

        Raises:
            ValueError: If what stands beside `callback` does not go with it, or there is nothing to
                choose.
        """
        self.own(pl_module)
        self._settled = set()
        check_beside(trainer, callback)
        self._grid = grid_owner(trainer, callback)
        root = self.root(pl_module)
        self._transform = transform_beside(trainer, callback, root, callback.transform)
        self.follow(pl_module, trainer)

    def settle(self, pl_module: LightningModule, trainer: Trainer) -> None:
        """Keep the codebooks that were last brought: from now on all are this network's own."""
        self.follow(pl_module, trainer)
        self._settled |= self._shared.keys() & self.codebooks.keys()
        self._grid, self._shared = None, {}

    def tell(self, gradients: Mapping[str, Tensor], strength: float) -> None:
        """Hand the gradient of the entropy term on to the owner of a grid.

        Args:
            gradients: Of the rate, by name of the weights.
            strength: Loss units per bit per weight.
        """
        if self._grid is not None:
            told = {n: gradient for n, gradient in gradients.items() if n in self._shared}
            self._grid.add_rate({self.parameters[n]: g * strength for n, g in told.items()})

    def _take_grids(self, pl_module: LightningModule) -> dict[int, Codebook | None]:
        """What the owner of a grid brings now, by the `id` of the parameter."""
        if self._grid is None:
            return {}
        grids = {id(weight): book for weight, book in self._grid.grids(pl_module).items()}
        self._shared = {n: grids[id(p)] for n, p in self.parameters.items() if id(p) in grids}
        if self.codebooks:
            self.codebooks |= {n: book for n, book in self._shared.items() if book is not None}
        return grids

    def follow(self, pl_module: LightningModule, trainer: Trainer) -> bool:
        """Choose again where the network has changed, and fit codebooks to what is new.

        Returns:
            False if `pl_module` is another network than was trained; it is left as it is.

        Raises:
            ValueError: If there is nothing to choose.
        """
        if self._owner is None:
            self.own(pl_module)
        if self._owner() is not pl_module:
            rank_zero_warn(
                f"HEMPCallback leaves this {type(pl_module).__name__} as it is: its codebooks "
                "belong to the network that it was trained with"
            )
            return False
        grids = self._take_grids(pl_module)
        changes = self._chosen.update(pl_module, self.root(pl_module), grids)
        if changes:
            self._take_grids(pl_module)
            self.forward.detach()
            renamed = {changes.renamed.get(name, name): b for name, b in self.codebooks.items()}
            for name in changes.replaced:
                renamed.pop(name, None)
            self.codebooks = {n: renamed[n] for n in self.parameters if n in renamed}
            self._warn_of_other_transforms()
        if not self.codebooks:
            return True
        for name, book in self.codebooks.items():
            device = self.parameters[name].device
            if book.levels.device != device:
                self.codebooks[name] = book.to(device)
        missing = [name for name in self.parameters if name not in self.codebooks]
        if missing:
            rank_zero_warn(f"HEMPCallback fits codebooks to what is new: {', '.join(missing)}")
            self._fit(missing, trainer)
        if self.rates is not None and not self.rates.fits(self.parameters, self.codebooks):
            self.take_rates()
        return True

    def _warn_of_other_transforms(self) -> None:
        """Say which codebooks, from a checkpoint, have another transform than is asked for."""
        kept = []
        for name, book in self.codebooks.items():
            asked = asked_transform(self._transform, name, self.parameters[name].shape)
            if asked not in ("auto", book.transform):
                kept.append(name)
        if kept:
            rank_zero_warn(
                f"HEMPCallback keeps the transform that {listed(kept)} had in the checkpoint: the "
                "weights were trained for it. `transform` asks for another; a new training from "
                "the weights of the checkpoint takes that"
            )

    def fit(self, trainer: Trainer) -> None:
        """Fit all codebooks, each from the one before; none as long as a grid is to be brought.

        Raises:
            ValueError: If a tensor cannot be quantized; its name is told.
        """
        brought = {name: book for name, book in self._shared.items() if book is not None}
        if len(brought) < len(self._shared):
            return
        own = [name for name in self.parameters if name not in brought.keys() | self._settled]
        self._fit(own, trainer)
        self.codebooks |= brought
        self.take_rates()

    def take_rates(self) -> None:
        """Take the code lengths of the weights as they are, if they count."""
        if self.rates is not None:
            self.rates.take(self.parameters, self.codebooks)

    def _fit(self, names: Collection[str], trainer: Trainer) -> None:
        for name in names:
            weights = self.parameters[name].detach()
            try:
                self.codebooks[name] = fit_transformed(
                    self._quantizer, name, weights, self._transform, self.codebooks.get(name)
                )
            except ValueError as error:
                raise ValueError(f"Cannot fit a codebook to `{name}`: {error}") from None
        if trainer.world_size > 1:
            # every process fits the same weights; this holds even where their libraries differ
            books = {
                name: (book.levels.cpu(), book.thresholds.cpu(), book.transform)
                for name, book in self.codebooks.items()
            }
            self.codebooks = {
                name: Codebook(*parts).to(self.parameters[name].device)
                for name, parts in trainer.strategy.broadcast(books).items()
            }

    def check_apart(self, other: QuantizedNetwork) -> None:
        """Refuse parameters that another callback trains on levels of its own.

        Raises:
            ValueError: With their names.
        """
        theirs = set(map(id, other.parameters.values()))
        shared = [name for name, parameter in self.parameters.items() if id(parameter) in theirs]
        if shared:
            raise ValueError(
                f"two HEMPCallbacks must train different tensors; found {listed(shared)} in both. "
                "Give each a `module` of its own, or leave out of `tensors` what the other has"
            )

    # What forward passes see.

    def warn_of_direct_use(self, loss: Tensor) -> None:
        """Warn once of parameters that the loss has used past the forward passes of modules.

        The first graphs of a fit are searched.

        Args:
            loss: Before its backward pass.
        """
        if self._warned or self._searched >= SEARCHED or not self.forward.enabled:
            return
        self._searched += 1
        self._warn_of_outside(used_directly(loss, self.trained))

    def warn_of_no_step(self) -> None:
        """Warn once that no optimizer steps a parameter, so that no term acts."""
        if not self._told:
            self._told = True
            rank_zero_warn(
                "HEMPCallback adds its gradient where an optimizer of torch steps the weights that "
                f"it quantizes; found no step of {listed(list(self.trained))} in an epoch, so that "
                "`lambda_entropy` has no effect. Give an optimizer these parameters themselves"
            )

    def warn_of_unseen(self, optimizer: Optimizer) -> None:
        """Warn once of parameters that got a gradient where no forward pass quantized them.

        Args:
            optimizer: Will step some of them, on gradients of the loss alone.
        """
        if self._warned or not self.forward.enabled:
            return
        trained = self.trained
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        unseen = [
            name
            for name, parameter in trained.items()
            if name not in self.forward.used
            and name not in self._shared
            and id(parameter) in stepped
            and parameter.grad is not None
            and parameter.grad.any()
        ]
        self._warn_of_outside(unseen)

    def _warn_of_outside(self, names: list[str]) -> None:
        if names:
            self._warned = True
            rank_zero_warn(
                f"HEMPCallback quantizes weights within the forward passes of modules; found "
                f"{listed(names)} in use outside of any, where training sees real weights and "
                "the file will hold others. Use them in the `forward` of a module, or leave them "
                "out of `tensors`"
            )

    def quantize(self, pl_module: LightningModule) -> None:
        """Quantize the forward passes to come."""
        self._attach(pl_module)
        own = {name: book for name, book in self.codebooks.items() if name not in self._shared}
        self.forward.quantizers = _quantizers(own)
        self.forward.enabled = True

    def release(self) -> None:
        """Let the forward passes to come see the real weights."""
        self.forward.enabled = False

    @contextmanager
    def showing(
        self, pl_module: LightningModule, codebooks: Mapping[str, Codebook]
    ) -> Iterator[nn.Module]:
        """The root, with quantized weights in its `state_dict` too for a while."""
        self._attach(pl_module)
        with self.forward.within(pl_module, _quantizers(codebooks)):
            yield self.root(pl_module)

    def _attach(self, pl_module: LightningModule) -> None:
        if not self.forward.is_attached(pl_module):
            self.forward.attach(pl_module, self.parameters)

    # What a checkpoint holds.

    def state_dict(self) -> dict[str, Any]:
        """Codebooks and code lengths."""
        return {
            "num_levels": self._quantizer.num_levels,
            "codebooks": {
                name: {
                    "levels": book.levels.cpu(),
                    "thresholds": book.thresholds.cpu(),
                    "transform": book.transform,
                }
                for name, book in self.codebooks.items()
            },
            "rates": (self.rates or ContextRates()).state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> bool:
        """Go on from `state_dict`, with the network that is followed next.

        Returns:
            Whether its codebooks are used; those of another number of levels are not.
        """
        books = {
            name: Codebook(entry["levels"], entry["thresholds"], entry.get("transform", "none"))
            for name, entry in state_dict["codebooks"].items()
        }
        self.own(None)
        if self.rates is not None:
            self.rates.load_state_dict(state_dict["rates"])
        wanted = self._quantizer.num_levels
        most = max((book.num_levels for book in books.values()), default=0)
        found = state_dict.get("num_levels", wanted if most <= wanted else most)
        if found != wanted:
            rank_zero_warn(
                f"HEMPCallback goes on with `num_levels` {wanted} from a checkpoint with {found}: "
                "the codebooks are fitted afresh"
            )
            books = {}
        self.codebooks = books
        return found == wanted


def _quantizers(codebooks: Mapping[str, Codebook]) -> dict[str, Any]:
    return {name: partial(quantize_like, book) for name, book in codebooks.items()}
