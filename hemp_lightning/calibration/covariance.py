"""What layers see: second moments of their inputs, and how much each of their rows counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemp_lightning.calibration.candidates import on
from hemp_lightning.calibration.distances import are_scores, output_tensors
from hemp_lightning.calibration.inputs import BATCH, Inputs

ROWS = 4096
"""The most inputs of a layer that are counted of one batch: positions of a convolution."""

_SMALL_BATCH = 16


@dataclass(frozen=True)
class Layer:
    """A layer whose inputs can be seen, in the order of the calls.

    Attributes:
        name: Name of its weight.
        module: The layer.
        norm: BatchNorm that alone takes its outputs, or None.
    """

    name: str
    module: nn.Module
    norm: _BatchNorm | None


@dataclass(frozen=True)
class Moments:
    """Moments of the inputs of a layer.

    Attributes:
        second: Mean of `x x^T`, float32 `(groups, columns, columns)`.
        first: Mean of `x`, float32 `(groups, columns)`.
    """

    second: Tensor
    first: Tensor


class _EnoughError(Exception):
    """Ends a forward pass."""


def layers_of(network: nn.Module, names: Collection[str], inputs: Inputs) -> list[Layer]:
    """Layers among `names` whose inputs can be seen, in the order in which they are called.

    These are linear layers, convolutions in one or two dimensions, and packed projections of
    self-attention. A layer that is called twice, or whose weight another one shares, is not there.
    """
    owners: dict[int, str] = {id(p): n for n, p in network.named_parameters() if n in names}
    parameters = [p for m in network.modules() for p in m.parameters(recurse=False)]
    seen: list[tuple[str, nn.Module]] = []
    made: dict[int, tuple[str, Tensor]] = {}
    norms: dict[str, _BatchNorm] = {}
    handles = []

    def of_layer(module: nn.Module, _: Any, outputs: Any) -> None:
        name = owners[id(weight_of(module))]
        seen.append((name, module))
        if isinstance(outputs, Tensor):
            made[id(outputs)] = name, outputs

    def of_norm(module: nn.Module, arguments: Any) -> None:
        name, tensor = made.get(id(arguments[0]), ("", None))
        if tensor is arguments[0] and isinstance(module, _BatchNorm):
            norms[name] = module

    for module in network.modules():
        weight = weight_of(module)
        shared = sum(other is weight for other in parameters) != 1
        if weight is not None and id(weight) in owners and not shared:
            handles.append(module.register_forward_hook(of_layer))
        if isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(of_norm))
    try:
        with torch.no_grad(), plain_attention():
            call = next(inputs.batches(_SMALL_BATCH))
            on(call, next(network.parameters()).device)(network.eval())
    finally:
        for handle in handles:
            handle.remove()
    called = [name for name, _ in seen]
    return [Layer(n, module, norms.get(n)) for n, module in seen if called.count(n) == 1]


def weight_of(module: nn.Module) -> Tensor | None:
    """The weight of a layer whose inputs can be seen, or None."""
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return module.weight
    if isinstance(module, nn.MultiheadAttention):
        return module.in_proj_weight
    return None


@torch.no_grad()
def moments_of(network: nn.Module, layers: list[Layer], inputs: Inputs) -> dict[str, Moments]:
    """Moments of the inputs of `layers`, which are those of one pass over `inputs`."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    counts = dict.fromkeys((layer.name for layer in layers), 0)
    draw = torch.Generator().manual_seed(0)

    def hook(layer: Layer, is_last: bool) -> Callable[..., None]:
        def count(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            own = arguments[0] if arguments else next(iter(keywords.values()))
            columns = _columns(module, own, draw)  # (groups, rows, columns)
            second, first = columns.mT @ columns, columns.sum(1)
            counts[layer.name] += columns.shape[1]
            if layer.name in sums:
                sums[layer.name][0].add_(second)
                sums[layer.name][1].add_(first)
            else:
                sums[layer.name] = second, first
            if is_last:
                raise _EnoughError

        return count

    handles = [
        layer.module.register_forward_pre_hook(hook(layer, layer is layers[-1]), with_kwargs=True)
        for layer in layers
    ]
    device = next(network.parameters()).device
    try:
        with plain_attention():
            for call in inputs.batches(BATCH):
                try:
                    on(call, device)(network.eval())
                except _EnoughError:
                    pass
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: Moments(second / counts[name], first / counts[name])
        for name, (second, first) in sums.items()
    }


def sensitivities(
    network: nn.Module, parameters: Mapping[str, nn.Parameter], inputs: Inputs, seed: int
) -> dict[str, Tensor]:
    """Curvature of the loss along single weights, the mean of each row.

    For scores: of the divergence, in nats, by squared gradients of the log probability of labels
    that are drawn from the network's own scores. For other outputs: of half the relative squared
    error, by squared gradients along random signs.

    Returns:
        float32 `(num_rows,)` of each parameter, its first axis.
    """
    sums = {name: torch.zeros(len(p), device=p.device) for name, p in parameters.items()}
    device = next(network.parameters()).device
    draw = torch.Generator(device=device).manual_seed(seed)
    count = 0
    with plain_attention():
        for call in inputs.batches(_SMALL_BATCH):
            network.zero_grad(set_to_none=True)
            outputs = on(call, device)(network.eval())
            _scalar(outputs, draw).backward()
            count += len(call)
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.square().flatten(1).mean(1)
    network.zero_grad(set_to_none=True)
    return {name: entry / max(count, 1) for name, entry in sums.items()}


def _scalar(outputs: Any, draw: torch.Generator) -> Tensor:
    tensors = output_tensors(outputs)
    if are_scores(outputs):
        logs = F.log_softmax(tensors[0].float(), 1)
        labels = torch.multinomial(logs.detach().exp(), 1, generator=draw)
        return logs.gather(1, labels).sum()
    total = torch.zeros((), device=tensors[0].device)
    for tensor in tensors:
        signs = torch.randint(0, 2, tensor.shape, generator=draw, device=tensor.device) * 2 - 1
        each = tensor.detach().float().square().sum() / max(1, len(tensor) if tensor.ndim else 1)
        total = total + (tensor * signs).sum() / each.clamp_min(1e-12).sqrt()
    return total


def _columns(module: nn.Module, inputs: Tensor, draw: torch.Generator) -> Tensor:
    """What the rows of a weight are multiplied with, `(groups, rows, columns)`."""
    inputs = inputs.detach().float()
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        columns = inputs.reshape(-1, inputs.shape[-1])
        return _some(columns, draw)[None]
    own = module.weight
    inputs = inputs.unsqueeze(0) if inputs.ndim == own.ndim - 1 else inputs
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        padding = list(module._reversed_padding_repeated_twice)
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        inputs = F.pad(inputs, padding, mode=mode)
        sides: tuple[int, ...] = (0,) * (own.ndim - 2)
    else:
        sides = tuple(int(side) for side in module.padding)
    kernel: tuple[int, ...] = tuple(own.shape[2:])
    stride, dilation = module.stride, module.dilation
    if own.ndim == 3:
        inputs = inputs.unsqueeze(2)
        kernel, stride = (1, *kernel), (1, *stride)
        dilation, sides = (1, *dilation), (0, *sides)
    rows = []
    size = max(1, 2**24 // max(1, inputs[0].numel() * math.prod(kernel)))
    share = max(1, ROWS * size // max(1, len(inputs)))
    for part in inputs.split(size):
        unfolded = F.unfold(part, tuple(kernel), dilation, sides, stride)  # (n, columns, places)
        flat = unfolded.mT.reshape(-1, unfolded.shape[1])
        rows.append(_some(flat, draw, share))
    columns = torch.cat(rows)
    return columns.unflatten(1, (module.groups, -1)).transpose(0, 1).contiguous()


def _some(rows: Tensor, draw: torch.Generator, most: int = ROWS) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[torch.randint(0, len(rows), (most,), generator=draw).to(rows.device)]


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention layer by layer: the fused path calls no hooks."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
