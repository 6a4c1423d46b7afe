"""What goes into a file, decided before anything is coded: which tensors, with which levels."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hemp_lightning.file.fold_norms import folded_state
from hemp_lightning.file.format.storages import QUANTIZABLE
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.reorder_units import reordered_state
from hemp_lightning.file.state import Entry, State, read_entries, uncompiled
from hemp_lightning.quantization.bounded import MAX_ERROR, BoundedQuantizer
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import LloydMaxQuantizer, Quantizer, get_quantizer
from hemp_lightning.quantization.selection import (
    matching,
    named_exactly,
    pruning_masks,
    select_tensors,
    weights_by_name,
)
from hemp_reader.errors import listed
from hemp_reader.transforms import is_transformable
from hemp_reader.updates import Base

LARGE_ENTRIES = 1024
LARGE_SHARE = 0.05
"""Above both, a tensor that is left in float is worth a word."""

_FEW_LEVELS = 16


@dataclass(frozen=True)
class Plan:
    """What is written, and how.

    Attributes:
        entries: All tensors, in the order of the state_dict.
        codebooks: Positions of the entries that are quantized, with the codebook of each, or None
            where `quantizer` fits one.
        explicit: Positions of those that the user named: they must be finite.
        masks: Position of the mask of each pruned entry, by its position.
        quantizer: Fits the codebooks that are not given.
        automatic: The levels are as many as the error needs, so that a tensor which is shorter as
            it is stays so.
        options: The rest.
        notes: What the user is to be told, filled while tensors are coded.
        base: A file whose tensors are taken as they are where they have not changed.
    """

    entries: list[Entry]
    codebooks: dict[int, Codebook | None]
    explicit: set[int]
    masks: dict[int, int]
    quantizer: Quantizer
    automatic: bool
    options: FileOptions
    notes: list[str] = field(default_factory=list)
    base: Base | None = None

    def values(self, position: int) -> Tensor:
        """The tensor that is written: of a pruned one, with zeros where its mask has them."""
        tensor = self.entries[position].values()
        if position in self.masks:
            mask = self.entries[self.masks[position]].values()
            if mask.shape == tensor.shape:
                tensor = torch.where(mask == 0, torch.zeros_like(tensor), tensor)
        return tensor


def choose(
    model: nn.Module | State,
    *,
    num_levels: int | None = None,
    quantizer: str | Quantizer | None = None,
    codebooks: Mapping[str, Codebook] | None = None,
    tensors: str | Sequence[str] = "weights",
    options: FileOptions | None = None,
) -> Plan:
    """Decide what is quantized and put the state_dict into the form that is written.

    Args:
        model: A model or state_dict.
        num_levels: The most levels; None for as many as the error needs.
        quantizer: Fits levels, by name or as an object.
        codebooks: Given codebooks by name; then the three other words do not count.
        tensors: What is quantized.
        options: How the file is written.

    Raises:
        ValueError: As `save`.
        TypeError: As `save`.
    """
    options = FileOptions() if options is None else options
    fitter = get_fitter(num_levels, quantizer)
    entries = read_entries(model)
    if codebooks is None:
        names = chosen_names(model, entries, tensors)
        exact = named_exactly(tensors)
        if tensors in ("weights", "layers"):
            warn_of_floats(left_in_float(entries, names))
        books: dict[str, Codebook | None] = dict.fromkeys(names)
    else:
        _check_codebooks(entries, codebooks)
        books = {name: codebook.to("cpu") for name, codebook in codebooks.items()}
        exact = set(books)
    positions = {_position(entries, name): book for name, book in books.items()}
    explicit = {_position(entries, name) for name in exact if name in books}
    masks: dict[int, int] = {}
    for name, mask in pruning_masks(entry.name for entry in entries).items():
        book = _mask_levels(entries, mask)
        if book is not None:
            masks[_position(entries, name)] = _position(entries, mask)
            positions[_position(entries, mask)] = book
    entries = _transformed(model, entries, positions, codebooks, options)
    automatic = codebooks is None and isinstance(fitter, BoundedQuantizer)
    return Plan(entries, positions, explicit, masks, fitter, automatic, options)


def choose_exactly(model: nn.Module | State, options: FileOptions) -> Plan:
    """The plan of a file in which every tensor keeps every bit: nothing is quantized.

    Args:
        model: A model or state_dict.
        options: How the file is written, but for what would change a bit.

    Raises:
        ValueError: As `save`.
        TypeError: As `save`.
    """
    exact = replace(options, float_dtype="float32", fold_norms=False, reorder_units=False)
    plan = choose(model, codebooks={}, options=exact)
    return replace(plan, codebooks={}, explicit=set(), masks={}, automatic=False)


def get_fitter(num_levels: int | None, quantizer: str | Quantizer | None) -> Quantizer:
    """What fits levels: as many as the error needs, unless a number of them is given.

    Example:
        >>> get_fitter(16, None)
        LloydMaxQuantizer(num_levels=16, keep_zero=True, max_iterations=10000)
        >>> get_fitter(None, None)
        BoundedQuantizer(max_error=0.005, quantizer='uniform', num_levels=4096)
    """
    if quantizer is None:
        return BoundedQuantizer() if num_levels is None else LloydMaxQuantizer(num_levels)
    if num_levels is None and isinstance(quantizer, str):
        return BoundedQuantizer(MAX_ERROR, quantizer)
    return get_quantizer(quantizer, 16 if num_levels is None else num_levels)


def chosen_names(
    model: nn.Module | State, entries: list[Entry], tensors: str | Sequence[str]
) -> set[str]:
    """Names of the entries to quantize.

    A bare state_dict does not tell what a tensor is for: there, `weights` are the floating tensors
    with two axes or more.

    Raises:
        TypeError: If `tensors` is no name and no list of names.
        ValueError: If `tensors` names something that is not there.
    """
    if isinstance(model, nn.Module):
        module = uncompiled(model)
        if isinstance(tensors, str) and tensors in ("weights", "layers"):
            floating = (p for p in module.parameters() if p.is_floating_point())
            if not any(p.ndim >= 2 and p.numel() for p in floating):
                return set()
        return set(select_tensors(module, tensors))
    found = {e.name: e.tensor for e in entries if e.tensor.dtype in QUANTIZABLE}
    found = {name: tensor for name, tensor in found.items() if tensor.numel()}
    if tensors == "layers" or (not isinstance(tensors, str) and "layers" in tensors):
        raise ValueError(
            "`tensors`='layers' needs a module: a bare state_dict does not tell which tensors are "
            "biases. Pass the module, 'weights', 'all', or patterns such as '*.bias'"
        )
    words = {"weights": weights_by_name(found), "all": set(found)}
    return set(matching(list(found), tensors, words, [entry.name for entry in entries]))


def left_in_float(
    model: nn.Module | State | list[Entry], chosen: Collection[str]
) -> dict[str, int]:
    """Large tensors that are not quantized: a file holds them in two bytes an entry or more.

    Args:
        model: A model or state_dict, or its entries.
        chosen: Names of the tensors that are quantized.

    Returns:
        Bytes of each in float32, by name: of floating tensors with two axes or more, more than
        1,024 entries and over 5 % of the bytes of all.

    Example:
        >>> left_in_float({"a": torch.zeros(64, 64), "b": torch.zeros(64, 32)}, {"b"})
        {'a': 16384}
    """
    entries = model if isinstance(model, list) else read_entries(model)
    own = [entry for entry in entries if entry.target is None]
    whole = sum(entry.tensor.numel() for entry in own)
    quantized = {_position(entries, name) for name in chosen}
    masks = set(pruning_masks(entry.name for entry in entries).values())
    return {
        entry.name: 4 * entry.tensor.numel()
        for position, entry in enumerate(entries)
        if entry.target is None
        and position not in quantized
        and entry.name not in masks
        and entry.tensor.dtype in QUANTIZABLE
        and entry.tensor.ndim >= 2
        and entry.tensor.numel() > max(LARGE_ENTRIES, LARGE_SHARE * whole)
    }


def warn_of_floats(large: Mapping[str, int]) -> None:
    """Warn of what `left_in_float` found, if it found something."""
    if large:
        named = listed([f"{name} ({size:,} bytes in float32)" for name, size in large.items()])
        warnings.warn(
            f"large tensors stay in float, since `tensors` does not choose them: {named}. Name "
            "them in `tensors` to quantize them",
            stacklevel=3,
        )


def _transformed(
    model: nn.Module | State,
    entries: list[Entry],
    positions: Collection[int],
    codebooks: Mapping[str, Codebook] | None,
    options: FileOptions,
) -> list[Entry]:
    """The entries with norms folded and units in another order, where the options say so."""
    if not (options.fold_norms or options.reorder_units):
        return entries
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`{'fold_norms' if options.fold_norms else 'reorder_units'}` needs a module, which "
            f"knows its layers; found {type(model).__name__}. Give the module, or leave it out"
        )
    module = uncompiled(model)
    state = module.state_dict()
    if options.fold_norms:
        quantized = {entries[position].name for position in positions}
        state = folded_state(module, quantized, options.float_dtype)
    if options.reorder_units:
        state = reordered_state(module, state, codebooks)
    return read_entries(state)


def _mask_levels(entries: list[Entry], name: str) -> Codebook | None:
    """The few numbers in a mask, which levels stand for exactly; None if there are many."""
    tensor = entries[_position(entries, name)].tensor
    if tensor.dtype not in QUANTIZABLE or not tensor.numel():
        return None
    values = torch.unique(entries[_position(entries, name)].values().float())
    return Codebook(values) if len(values) <= _FEW_LEVELS and values.isfinite().all() else None


def _position(entries: list[Entry], name: str) -> int:
    """Position of the entry that holds the tensor of that name, behind an alias too."""
    position = [entry.name for entry in entries].index(name)
    target = entries[position].target
    return position if target is None else target


def _check_codebooks(entries: list[Entry], codebooks: Mapping[str, Codebook]) -> None:
    """Refuse codebooks that are none, or for what cannot be quantized."""
    by_name = {entry.name: entry.tensor for entry in entries}
    for name, codebook in codebooks.items():
        if name not in by_name:
            raise ValueError(
                f"`codebooks` must have names of the state_dict; found {name!r}, which is none of "
                f"{listed(list(by_name))}"
            )
        tensor = by_name[name]
        if tensor.dtype not in QUANTIZABLE or not tensor.numel():
            raise ValueError(
                f"`codebooks` must be for floating tensors with an entry; found {name!r} of dtype "
                f"{tensor.dtype} and shape {tuple(tensor.shape)}"
            )
        if not isinstance(codebook, Codebook):
            raise TypeError(
                f"`codebooks[{name!r}]` must be a Codebook; found {type(codebook).__name__}"
            )
        if codebook.transform != "none" and not is_transformable(tensor.shape):
            raise ValueError(
                f"`codebooks[{name!r}]` must have the transform 'none', since a tensor of shape "
                f"{tuple(tensor.shape)} has no kernels; found {codebook.transform!r}"
            )
