"""Loading checkpoints into a network, with a clear word on what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from hemp_lightning.file.checkpoints import CheckpointError, read_checkpoint, without_prefix
from hemp_reader.errors import listed

_LOG = logging.getLogger(__name__)


def read_state_dict(
    path: str | Path, name: str = "model.checkpoint", key: str | None = None
) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, of any form that `read_checkpoint` knows.

    Args:
        path: The file.
        name: What errors call it.
        key: Where the tensors stand in it; None for the usual names.

    Returns:
        Names and tensors, on the CPU, with the names of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The suffix is not known or the file holds no tensors that can be read.
        HempFileError: A `.hemp` file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`{name}`: expected a file; found none at {path}")
    try:
        checkpoint = read_checkpoint(path, key)
    except (CheckpointError, ValueError) as error:
        raise ValueError(f"`{name}`: {error}") from error
    for note in checkpoint.notes:
        _LOG.info("%s: %s", path, note)
    return {
        k: value if isinstance(value, Tensor) else value.read()
        for k, value in checkpoint.tensors.items()
    }


def load_checkpoint(
    network: nn.Module,
    path: str | Path,
    name: str = "model.checkpoint",
    prefix: str | None = None,
    key: str | None = None,
) -> nn.Module:
    """Load a checkpoint into a network; every key and shape must agree.

    One prefix that all tensors of the network share in the file (`net.`, `module.`) is taken off.
    What stands there without it is another part of the program, and is named in the log.

    Args:
        network: The network to fill, in place.
        path: As for `read_state_dict`.
        name: What errors call it.
        prefix: The prefix of the network's names in the file; None to find it.
        key: As for `read_state_dict`.

    Returns:
        The same network.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Keys are missing or unexpected, or shapes differ, or the network stands there
            under several prefixes; the message lists them.
    """
    own = network.state_dict()
    state = _without_prefix(read_state_dict(path, name, key), own, path, name, prefix)
    # torch fills this counter when an old checkpoint lacks it: not worth an error.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {_shape(state[k])} in the file, {_shape(own[k])} in the network"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} keys missing in the file ({listed(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} keys that the network lacks ({listed(unexpected)})")
    if shapes:
        problems.append(f"{len(shapes)} shapes that differ ({listed(shapes)})")
    if problems:
        raise ValueError(
            f"`{name}`: {path} does not fit this {type(network).__name__}: "
            + "; ".join(problems)
            + ". Choose the `model` and `dataset` that the checkpoint was made with"
        )
    network.load_state_dict(state, strict=False)  # all but the counters was compared above
    return network


def _without_prefix(
    state: dict[str, Tensor],
    own: Mapping[str, Tensor],
    path: str | Path,
    name: str,
    prefix: str | None,
) -> dict[str, Tensor]:
    try:
        found = without_prefix(state, own, prefix)
    except ValueError as error:
        raise ValueError(f"`{name}`: {path}: {error}: `{name}_prefix=`") from error
    if not found:
        return state
    _LOG.info("%s: the prefix %r of its names is taken off", path, found)
    others = [k for k in state if not k.startswith(found)]
    if others:
        _LOG.warning("%s: left out, without the prefix %r: %s", path, found, listed(others))
    return {k.removeprefix(found): v for k, v in state.items() if k.startswith(found)}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
