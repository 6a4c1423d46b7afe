"""Entries: what a state_dict has to say, checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hemp_lightning.file.format.storages import EXACT
from hemp_reader.format.directory import MAX_ENTRIES, MAX_NAMES, MAX_NDIM, MAX_RECORDS
from hemp_reader.format.names import MAX_NAME


@dataclass(frozen=True)
class Deferred:
    """A tensor of a state_dict that is read from somewhere when its turn comes.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        read: Returns it, each time anew.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


State = Mapping[str, Tensor] | Mapping[str, Tensor | Deferred]
"""A state_dict, of which some tensors may be `Deferred`."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a state_dict.

    Attributes:
        name: Its key.
        tensor: Detached, on its own device, dense; of a deferred one, only its shape and dtype.
        target: Position of the entry that it repeats, if it shares its memory; else None.
        deferred: Where its values come from, if they are not in `tensor`.
    """

    name: str
    tensor: Tensor
    target: int | None
    deferred: Deferred | None = None

    def values(self) -> Tensor:
        """The tensor with its values, on the CPU."""
        if self.deferred is None:
            return self.tensor.to("cpu").resolve_conj().resolve_neg()
        tensor = self.deferred.read()
        if tensor.shape != self.tensor.shape or tensor.dtype != self.tensor.dtype:
            raise ValueError(
                f"tensor `{self.name}` must be the {self.tensor.dtype} of shape "
                f"{tuple(self.tensor.shape)} that it was said to be; found a {tensor.dtype} of "
                f"shape {tuple(tensor.shape)}"
            )
        return tensor


def read_entries(model_or_state_dict: nn.Module | State) -> list[Entry]:
    """Entries of a model or state_dict, in its order; tied tensors refer to the first of them.

    Raises:
        TypeError: If it is neither, or an entry is no tensor.
        ValueError: If a tensor is of a kind that no file of this version holds; its name is told.

    Example:
        >>> weight = torch.zeros(2, 2)
        >>> [entry.target for entry in read_entries({"a": weight, "b": weight})]
        [None, 0]
    """
    state = model_or_state_dict
    if isinstance(state, nn.Module):
        state = uncompiled(state).state_dict()
    if not isinstance(state, Mapping):
        raise TypeError(
            f"`model_or_state_dict` must be a module or a mapping of names to tensors; found "
            f"{type(state).__name__}"
        )
    entries: list[Entry] = []
    seen: dict[tuple[object, ...], int] = {}
    for name, tensor in state.items():
        _check_name(name)
        if isinstance(tensor, Deferred):
            stand_in = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            _check_kind(name, stand_in)
            entries.append(Entry(name, stand_in, None, tensor))
            continue
        _check_tensor(name, tensor)
        tensor = tensor.detach()
        memory = (
            tensor.device,
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
            tensor.is_conj(),
            tensor.is_neg(),
        )
        # Empty tensors have no memory to share.
        target = seen.setdefault(memory, len(entries)) if tensor.numel() else len(entries)
        entries.append(Entry(name, tensor, None if target == len(entries) else target))
    if len(entries) > MAX_RECORDS or sum(len(e.name.encode()) for e in entries) > MAX_NAMES // 2:
        raise ValueError(
            f"a file holds at most {MAX_RECORDS} tensors with {MAX_NAMES // 2} bytes of names; "
            f"found {len(entries)} tensors"
        )
    return entries


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, whose keys have no `_orig_mod`; else itself."""
    original = getattr(model, "_orig_mod", model)
    return original if isinstance(original, nn.Module) else model


def check_state(model: nn.Module | State) -> None:
    """Refuse a model or state_dict that no file can hold, before it is trained.

    Args:
        model: A module, whose state_dict is looked at, or a state_dict.

    Raises:
        TypeError: If an entry is no tensor: the extra state of a module, for one.
        ValueError: If a tensor is sparse, sharded, without values, or of an unknown dtype.

    Example:
        >>> check_state(nn.Linear(2, 2))
        >>> check_state({"held": torch.eye(2).to_sparse()})
        Traceback (most recent call last):
        ValueError: tensor `held` must be dense; found torch.sparse_coo, torch.float32
    """
    read_entries(model)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"keys of a state_dict must be strings; found {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"key {name!r} must be valid Unicode; found a lone surrogate") from None
    if size > MAX_NAME:
        raise ValueError(f"key {name[:40]!r}... must have at most {MAX_NAME} bytes; found {size}")


def _check_tensor(name: str, tensor: object) -> None:
    if name.rpartition(".")[2] == "_extra_state" and not isinstance(tensor, Tensor):
        raise TypeError(
            f"entry `{name}` must be a tensor; found {type(tensor).__name__}, the extra state of a "
            "module, which a file cannot hold (take `get_extra_state` from the module, or give a "
            "state_dict without it)"
        )
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"entry `{name}` must be a tensor; found {type(tensor).__name__} (leave it out of the "
            f"state_dict, or store it elsewhere)"
        )
    if hasattr(tensor, "full_tensor"):
        raise ValueError(
            f"tensor `{name}` must be whole; found a {type(tensor).__name__}, a shard of one "
            f"(gather it with `full_tensor()` first)"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise ValueError(f"tensor `{name}` must be dense; found {tensor.layout}, {tensor.dtype}")
    if tensor.device.type == "meta":
        raise ValueError(f"tensor `{name}` must have values; found one on the meta device")
    _check_kind(name, tensor)


def _check_kind(name: str, tensor: Tensor) -> None:
    """Refuse a dtype or shape that no file holds."""
    if tensor.dtype not in EXACT:
        raise ValueError(f"tensor `{name}` has dtype {tensor.dtype}, which a file cannot hold")
    if tensor.ndim > MAX_NDIM:
        raise ValueError(f"tensor `{name}` must have at most {MAX_NDIM} axes; found {tensor.ndim}")
    entries = 1
    for extent in tensor.shape:
        entries *= max(extent, 1)
    if entries > MAX_ENTRIES:
        raise ValueError(
            f"tensor `{name}` must have at most {MAX_ENTRIES} entries; found shape "
            f"{tuple(tensor.shape)}"
        )
