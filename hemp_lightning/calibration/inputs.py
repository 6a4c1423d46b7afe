"""Calibration inputs: whatever the user has, as batches that the network can be called with."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_INPUTS = 20_000
"""The most inputs that are kept of an iterable."""

MAX_BYTES = 2**31
"""The most bytes of them."""

LABELS = ("labels", "label", "targets", "target")
"""Keys of a dict that are never passed on."""

BATCH = 64


@dataclass(frozen=True)
class Call:
    """Arguments of one call of the network.

    Attributes:
        args: Positional arguments.
        kwargs: Arguments by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, network: nn.Module) -> Any:
        """What `network` returns for these arguments."""
        return network(*self.args, **self.kwargs)

    def map(self, change: Any) -> Call:
        """The same call with every tensor changed by `change`."""
        return Call(_map(self.args, change), _map(self.kwargs, change))

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return _tensors((self.args, self.kwargs))

    def __len__(self) -> int:
        tensors = [tensor for tensor in self.tensors() if tensor.ndim]
        return len(tensors[0]) if tensors else 1


class Inputs:
    """Batches of calls, of which single inputs can be drawn if all tensors have an axis for them.

    Args:
        calls: At least one call.

    Example:
        >>> inputs = Inputs([Call((torch.zeros(5, 2),), {})])
        >>> len(inputs), [len(call) for call in inputs.batches(2)]
        (5, [2, 2, 1])
    """

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls
        self._whole = _joined(calls)

    def __len__(self) -> int:
        return sum(len(call) for call in self._calls)

    def split(self, held_back: float, most: int, seed: int) -> tuple[Inputs, Inputs]:
        """Two parts, drawn at random: the second one has a share `held_back`, at most `most`.

        A single input, or a single batch that cannot be cut, is in both.
        """
        draw = torch.Generator().manual_seed(seed)
        count = len(self) if self._whole else len(self._calls)
        if count < 2:
            return self, self
        order = torch.randperm(count, generator=draw)
        second = max(1, min(most, round(held_back * count)))
        if self._whole is None:
            chosen = [self._calls[place] for place in order.tolist()]
            return Inputs(chosen[second:]), Inputs(chosen[:second])
        return self._part(order[second:]), self._part(order[:second])

    def head(self, count: int) -> Inputs:
        """The first `count` inputs, or as many batches as have them."""
        if self._whole is not None:
            return self._part(torch.arange(min(count, len(self))))
        calls, seen = [], 0
        for call in self._calls:
            if seen < count:
                calls.append(call)
                seen += len(call)
        return Inputs(calls)

    def batches(self, size: int = BATCH, draw: torch.Generator | None = None) -> Iterator[Call]:
        """Batches of at most `size` inputs, shuffled if there is a `draw`."""
        if self._whole is None:
            order = torch.randperm(len(self._calls), generator=draw) if draw else range(10**9)
            yield from (
                self._calls[int(place)] for place, _ in zip(order, self._calls, strict=False)
            )
            return
        places = torch.randperm(len(self), generator=draw) if draw else torch.arange(len(self))
        for part in places.split(size):
            yield self._whole.map(lambda tensor, part=part: tensor[part])

    def num_batches(self, size: int = BATCH) -> int:
        """How many batches `batches` gives."""
        return len(self._calls) if self._whole is None else -(-len(self) // size)

    def _part(self, places: Tensor) -> Inputs:
        assert self._whole is not None
        return Inputs([self._whole.map(lambda tensor: tensor[places])])


def read_inputs(inputs: Any, network: nn.Module) -> Inputs:
    """Calls of `network` from what a user has.

    Args:
        inputs: A tensor or array whose first axis counts inputs; or an iterable of batches, such
            as a DataLoader: tensors, tuples or dicts. Of a tuple, as many as `forward` requires are
            taken, from the front; of a dict, what `forward` has a name for, and no labels.
        network: The network that takes them.

    Returns:
        At most `MAX_INPUTS` inputs, floating tensors in float32.

    Raises:
        TypeError: If `inputs` is of another type.
        ValueError: If there are none, or one has NaN or infinity.
    """
    if isinstance(inputs, np.ndarray):
        inputs = torch.from_numpy(inputs)
    if isinstance(inputs, Tensor):
        if not inputs.ndim or not len(inputs):
            raise ValueError(
                f"`inputs` must have at least one input on its first axis; found shape "
                f"{tuple(inputs.shape)}"
            )
        inputs = [inputs]
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise TypeError(
            "`inputs` must be a tensor, an iterable of batches or a DataLoader; found "
            f"{type(inputs).__name__}"
        )
    calls: list[Call] = []
    count = size = 0
    for batch in inputs:
        call = _call(batch, network)
        call = call.map(lambda t: t.detach().cpu().float() if t.is_floating_point() else t.cpu())
        for tensor in call.tensors():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"`inputs` must be finite; found NaN or infinity in batch {len(calls)}"
                )
        calls.append(call)
        count += len(call)
        size += sum(tensor.numel() * tensor.element_size() for tensor in call.tensors())
        if count >= MAX_INPUTS or size >= MAX_BYTES:
            break
    if not count:
        raise ValueError("`inputs` must have at least one input; found none")
    return Inputs(calls).head(MAX_INPUTS)


def _call(batch: Any, network: nn.Module) -> Call:
    """The call that a batch stands for."""
    if isinstance(batch, np.ndarray):
        batch = torch.from_numpy(batch)
    if isinstance(batch, Tensor):
        return Call((batch,), {})
    parameters = list(inspect.signature(network.forward).parameters.values())
    if isinstance(batch, Mapping):
        takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        kept = {
            key: value
            for key, value in batch.items()
            if (takes_all or key in names) and key not in LABELS
        }
        return Call((), _map(kept, lambda tensor: tensor))
    if isinstance(batch, (tuple, list)):
        if any(p.kind == p.VAR_POSITIONAL for p in parameters):
            return Call(_map(tuple(batch), lambda tensor: tensor), {})
        needed = [
            p
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]
        return Call(_map(tuple(batch[: max(1, len(needed))]), lambda tensor: tensor), {})
    raise TypeError(
        f"a batch of `inputs` must be a tensor, a tuple or a dict; found {type(batch).__name__}"
    )


def _order(count: int, draw: torch.Generator | None) -> Tensor:
    return torch.arange(count) if draw is None else torch.randperm(count, generator=draw)


def _joined(calls: list[Call]) -> Call | None:
    """All calls as one, if every tensor has the inputs on its first axis; else None."""
    first = calls[0]
    shape = [(tensor.shape[1:], tensor.dtype) for tensor in first.tensors()]
    for call in calls:
        tensors = call.tensors()
        if not tensors or any(not t.ndim or len(t) != len(call) for t in tensors):
            return None
        if [(tensor.shape[1:], tensor.dtype) for tensor in tensors] != shape:
            return None
    if len(calls) == 1:
        return first
    whole = iter([torch.cat(same) for same in zip(*(c.tensors() for c in calls), strict=True)])
    return first.map(lambda tensor: next(whole))


def _map(nest: Any, change: Any) -> Any:
    if isinstance(nest, np.ndarray):
        nest = torch.from_numpy(nest)
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, Mapping):
        return {key: _map(value, change) for key, value in nest.items()}
    if isinstance(nest, (tuple, list)):
        return type(nest)(_map(value, change) for value in nest)
    return nest


def _tensors(nest: Any) -> list[Tensor]:
    if isinstance(nest, Tensor):
        return [nest]
    if isinstance(nest, Mapping):
        return [tensor for value in nest.values() for tensor in _tensors(value)]
    if isinstance(nest, (tuple, list)):
        return [tensor for value in nest for tensor in _tensors(value)]
    return []
