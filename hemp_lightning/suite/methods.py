"""What prunes, quantizes and writes a file, made from the groups of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning import Callback
from omegaconf import DictConfig
from torch import nn

from hemp_lightning.coding import get_coder, register_coder
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.baselines import PostTraining
from hemp_lightning.suite.check_keys import locate
from hemp_lightning.suite.parts import make, part, part_name
from hemp_lightning.training.beside import GridOwner


@runtime_checkable
class Starting(Protocol):
    """A method that sets in at an epoch."""

    start_epoch: int


@runtime_checkable
class OwnFormat(Protocol):
    """A method whose file `hemp_lightning.load` does not read: it decodes the file itself."""

    def load_into(self, network: nn.Module, path: str | Path) -> nn.Module:
        """Fill `network` from the file at `path`."""
        ...


def new_pruning(config: DictConfig) -> Callback | None:
    """The pruning method, if there is one."""
    chosen = part(config, "pruning")
    return _callback(chosen, "pruning", start_epoch=config.float_epochs) if chosen else None


def new_grid(config: DictConfig) -> Any:
    """The method of `quantization=` that brings its grid to `hemp=`; None if not both are chosen.

    Raises:
        ValueError: The method brings no grid.
    """
    chosen = part(config, "quantization")
    if not chosen or not part(config, "hemp"):
        return None
    kind = locate(str(chosen["_target_"]), "quantization._target_")
    if not isinstance(kind, type) or not issubclass(kind, GridOwner):
        reason = getattr(kind, "without_term", None) or "which brings no grid (see `GridOwner`)"
        raise ValueError(
            "`hemp` and `quantization`: expected a method whose grid the entropy term can act on, "
            f"as lsq; found {part_name(chosen)}, {reason}. Type hemp=none or quantization=none"
        )
    if "path" in chosen:
        chosen = chosen.copy()
        chosen.path = None  # the file is HEMP's
    return _callback(chosen, "quantization", start_epoch=config.float_epochs)


def new_method(config: DictConfig, folder: Path) -> Any:
    """What writes the file: HEMP, or the method of `quantization=` without it.

    Raises:
        ValueError: The method never sets in, or the quantizer is none.
    """
    hemp, quantization = part(config, "hemp"), part(config, "quantization")
    coder = _known_coder(config.coder)  # an unknown one shows before training, not after
    path = folder / "model.hemp"
    if hemp:
        method = make(_on_grid(hemp) if quantization else hemp, "hemp")
        check_quantizer(method.quantizer)
    elif quantization:
        offered = {"path": path, "coder": coder, "start_epoch": config.float_epochs}
        method = _callback(quantization, "quantization", **offered)
    else:
        return PostTraining(path=path, coder=coder)
    check_start(method, config, untrained=bool(hemp))
    return method


def check_start(method: Any, config: DictConfig, untrained: bool = False) -> None:
    """Check that a method sets in before training ends.

    Args:
        method: With or without a `start_epoch`.
        config: The composed configuration.
        untrained: Whether a training of no epochs is one, and the network quantized as it is.

    Raises:
        ValueError: It never would.
    """
    epochs = config.trainer.max_epochs
    start = method.start_epoch if isinstance(method, Starting) else -1
    if start >= epochs and not (untrained and epochs == 0):
        raise ValueError(
            f"`start_epoch`: expected less than the {epochs} epochs of training, or the method "
            f"never sets in; found {start}. Raise `epochs` or lower `float_epochs`"
        )


def _on_grid(hemp: DictConfig) -> DictConfig:
    """HEMP on the grid of another method, which has none for biases: they stay as it has them."""
    chosen = hemp.copy()
    if chosen.get("tensors") == "layers":
        chosen.tensors = "weights"
    return chosen


def method_name(config: DictConfig) -> str:
    """What made the file: `hemp`, the method of `quantization=`, or both, such as `hemp_lsq`."""
    quantization = part(config, "quantization")
    name = part_name(quantization) if quantization else None
    if part(config, "hemp"):
        return f"hemp_{name}" if name else "hemp"
    return name or "lloyd_max"


def check_quantizer(quantizer: Any) -> None:
    """Check that a quantizer gives codebooks, on a few weights.

    Raises:
        ValueError: `fit` gives something else.
    """
    found = quantizer.fit(torch.linspace(-1.0, 1.0, 64))
    if not isinstance(found, Codebook):
        raise ValueError(
            f"`hemp.quantizer`: expected `fit(weights, init)` of {type(quantizer).__name__} to "
            f"return a hemp_lightning.Codebook; found {type(found).__name__}. Return "
            "Codebook(levels), with levels in ascending order"
        )


def _callback(chosen: DictConfig, group: str, **offered: Any) -> Callback:
    made = make(chosen, group, **offered)
    if not isinstance(made, Callback):
        raise ValueError(
            f"`{group}._target_`: expected a lightning.Callback; found {type(made).__name__}"
        )
    return made


def _known_coder(chosen: DictConfig) -> str:
    """The name of the coder, registered if it is the user's own."""
    if "number" in chosen:
        coder = locate(str(chosen["_target_"]), "coder._target_")
        missing = [word for word in ("name", "encode", "decode") if word not in dir(coder)]
        if missing:
            raise ValueError(
                f"`coder._target_`: expected a class with `name`, `encode` and `decode`; "
                f"{chosen['_target_']} has no `{missing[0]}`"
            )
        register_coder(coder, int(chosen.number))
        chosen["name"] = coder.name
    name = str(chosen.name)
    get_coder(name)
    return name
