"""Reading checkpoints of four kinds into a network, with a clear word on what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hemp_lightning.errors import listed

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".hemp")


def read_state_dict(path: str | Path, name: str = "model.checkpoint") -> dict[str, Tensor]:
    """Read the tensors of a checkpoint.

    `.pt`, `.pth` and `.ckpt` are read with `weights_only=True`: nothing in them is executed. In a
    checkpoint that holds more than tensors, the part named `state_dict`, `model_state_dict` or
    `model` is taken. A prefix that all keys share because the network was an attribute of
    something (`network.`, `model.`, `module.`) is removed.

    Args:
        path: A `.pt`, `.pth`, `.ckpt`, `.safetensors` or `.hemp` file.
        name: What errors call it.

    Returns:
        Names and tensors, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The suffix is not known or the file holds no tensors.
        HempFileError: A `.hemp` file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`{name}`: expected a file; found none at {path}")
    if path.suffix == ".hemp":
        from hemp_lightning.file.load import load

        return load(path)
    if path.suffix == ".safetensors":
        return _without_prefix(load_file(path))
    if path.suffix not in SUFFIXES:
        raise ValueError(f"`{name}`: expected a file ending in {', '.join(SUFFIXES)}; found {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"`{name}`: {path} is not a checkpoint of tensors that can be read safely "
            f"({str(error).splitlines()[0]}). Save the state_dict alone and try again"
        ) from error
    return _without_prefix(_tensors_in(content, path, name))


def load_checkpoint(
    network: nn.Module, path: str | Path, name: str = "model.checkpoint"
) -> nn.Module:
    """Load a checkpoint into a network; every key and shape must agree.

    Args:
        network: The network to fill, in place.
        path: As for `read_state_dict`.
        name: What errors call it.

    Returns:
        The same network.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Keys are missing or unexpected, or shapes differ; the message lists them.
    """
    state = read_state_dict(path, name)
    own = network.state_dict()
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


def _tensors_in(content: object, path: Path, name: str) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        parts = (content.get(key) for key in ("state_dict", "model_state_dict", "model"))
        state = next((part for part in parts if isinstance(part, Mapping)), content)
        tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise ValueError(f"`{name}`: expected a dictionary of tensors; found none in {path}")


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("network.", "model.", "module."):
        inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if inside:  # a Lightning checkpoint may hold metrics or losses beside the network
            return inside
    return state


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
