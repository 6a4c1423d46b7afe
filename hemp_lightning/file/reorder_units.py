"""Hidden units in an order that codes into less: those that fell silent last.

Which unit of a hidden layer comes first changes nothing in what a network computes, as long as the
layer behind it knows (R. Hecht-Nielsen, *On the algebraic structure of feedforward network weight
spaces*, 1990). A context coder codes a block of silent rows and columns in next to nothing,
and scattered ones one by one. A unit that is 0 whatever comes in need not be listened to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.selection import count_owners

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# What treats every unit alike and knows nothing of its neighbours, as modules and as functions.
_ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)
_POOLS: tuple[type[nn.Module], ...] = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_ACTIVATION_NAMES = {
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh"),
    *("hardtanh", "hardswish", "hardsigmoid", "softplus"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d"),
}
_MOVES_ZERO = {"sigmoid", "softplus", "hardsigmoid", "hardtanh"}  # or may: hardtanh has ends to set
_POOL_NAMES = {
    f"{kind}_pool{ndim}d"
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
    for ndim in (1, 2, 3)
}


@dataclass(frozen=True)
class _Link:
    """A layer, the one behind it that alone sees its units, and what stands between them.

    Attributes:
        layer: Its name; its units are the first axis of its tensors.
        between: Names of modules between the two that hold numbers for each unit.
        behind: Name of the next layer; its weight has the units on the second axis.
        keeps_zero: A unit that is 0 arrives there as 0.
        norm: Name of the last norm between, if what it makes 0 arrives there as 0; else empty.
    """

    layer: str
    between: tuple[str, ...]
    behind: str
    keeps_zero: bool
    norm: str


@torch.no_grad()
def reordered_state(
    module: nn.Module, state: Mapping[str, Tensor], codebooks: Mapping[str, Codebook] | None = None
) -> dict[str, Tensor]:
    """A state_dict of the same function, with the silent units of hidden layers behind the others.

    A unit is empty if its own weights and its bias are 0, or those of the norm behind it, and the
    activations behind leave that 0: the weights that listen to it hear nothing and become 0, too.
    A unit is silent if all weights behind it are 0. Its own weights then do nothing and become 0,
    its bias becomes the commonest of the others. All units of such a layer are sorted by how many
    weights they have, those with most first. A layer without a silent unit stays as it is, and so
    does one whose units something else may see: it is called twice, shares a tensor, its output
    goes two ways (residual connections), or `torch.fx` cannot trace the module.

    Args:
        module: Any module in whose forward pass linear layers and convolutions follow one another,
            directly or through activations, pooling, dropout, BatchNorm, depthwise convolutions
            and, before a linear layer, `flatten`; it is not changed.
        state: Its state_dict, or one with the same names and shapes.
        codebooks: Codebooks of the tensors that will be quantized, by name.

    Returns:
        The names of `state`; what is moved is on the CPU, the rest is not copied. With it `module`
        computes the same, but for the order in which floats are summed.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> _ = net[2].weight.data.copy_(torch.tensor([[0.0, 2.0, 3.0]]))
        >>> reordered_state(net, net.state_dict())["2.weight"]
        tensor([[2., 3., 0.]])
    """
    new = dict(state)
    books = {name: book.to("cpu") for name, book in (codebooks or {}).items()}
    links = _links(module)

    def found(link: _Link) -> dict[str, Tensor]:
        parts = [(name, module.get_submodule(name)) for name in (link.layer, *link.between)]
        names = [f"{name}.{leaf}" for name, part in parts for leaf in part.state_dict()]
        return {name: new[name].cpu() for name in (*names, f"{link.behind}.weight")}

    for link in links:  # what hears nothing here may be empty itself
        new.update(_unheard(link, found(link), books))
    for link in reversed(links):  # what falls silent here may silence what is before it
        new.update(_reordered(link, found(link), books))
    return new


def _values(name: str, state: Mapping[str, Tensor], books: Mapping[str, Codebook]) -> Tensor:
    """What a tensor will be once it is quantized, if it is."""
    return books[name].quantize(state[name]) if name in books else state[name]


def _takes_zero(name: str, books: Mapping[str, Codebook]) -> bool:
    return name not in books or bool((books[name].levels == 0).any())


def _unheard(
    link: _Link, state: Mapping[str, Tensor], books: Mapping[str, Codebook]
) -> dict[str, Tensor]:
    """The weight behind a link with 0 where it listens to empty units; nothing if it never does."""
    behind = f"{link.behind}.weight"
    sources = [link.layer] * link.keeps_zero + [link.norm] * bool(link.norm)
    if not sources or not _takes_zero(behind, books):
        return {}
    units = len(state[f"{link.layer}.weight"])
    empty = torch.zeros(units, dtype=torch.bool)
    for source in sources:
        own = [f"{source}.{leaf}" for leaf in ("weight", "bias") if f"{source}.{leaf}" in state]
        values = [(_values(name, state, books) == 0).reshape(units, -1).all(1) for name in own]
        empty |= torch.stack(values).all(0)
    blocks = state[behind].unflatten(1, (units, -1))
    if not (_values(behind, state, books).unflatten(1, (units, -1))[:, empty] != 0).any():
        return {}
    return {behind: torch.where(_along(empty, blocks[0]), 0, blocks).flatten(1, 2)}


def _reordered(
    link: _Link, state: dict[str, Tensor], books: Mapping[str, Codebook]
) -> dict[str, Tensor]:
    """The tensors of a link in their new order; nothing if no unit is silent."""
    weight, bias, behind = f"{link.layer}.weight", f"{link.layer}.bias", f"{link.behind}.weight"
    units = len(state[weight])
    # (outputs, units, all that is left)
    split = _values(behind, state, books).reshape(len(state[behind]), units, -1)
    outward = (split != 0).sum((0, 2))
    silent = outward == 0
    if not silent.any():
        return {}
    if _takes_zero(weight, books):
        state[weight] = torch.where(_along(silent, state[weight]), 0, state[weight])
    if bias in state and not silent.all():
        commonest = _values(bias, state, books)[~silent].mode().values
        state[bias] = torch.where(silent, commonest, state[bias])
    inward = (_values(weight, state, books) != 0).reshape(units, -1).sum(1)
    order = torch.argsort(inward + outward, descending=True, stable=True)
    moved = {
        name: tensor[order] if tensor.ndim else tensor
        for name, tensor in state.items()
        if name != behind
    }
    blocks = state[behind].unflatten(1, (units, -1))[:, order]
    return {**moved, behind: blocks.flatten(1, 2).contiguous()}


def _along(units: Tensor, weights: Tensor) -> Tensor:
    return units.reshape(-1, *[1] * (weights.ndim - 1))


class _Tracer(fx.Tracer):
    """Records what a forward pass does to its buffers and does not do it."""

    proxy_buffer_attributes = True


def _links(module: nn.Module) -> list[_Link]:
    """All links of a module, in the order of its forward pass."""
    try:
        with torch.random.fork_rng([]):
            graph = _Tracer().trace(module)
    except Exception:  # whatever a forward pass may raise when its input is no tensor
        return []
    parts = dict(module.named_modules())
    lone = _lone(module, graph)
    starts = [
        node
        for node in graph.nodes
        if node.op == "call_module" and node.target in lone and _is_layer(parts[node.target])
    ]
    links = (_link(node, parts, lone) for node in starts)
    return [link for link in links if link is not None]


def _lone(module: nn.Module, graph: fx.Graph) -> set[str]:
    """Names of modules that are called once and share nothing, and whose tensors are their own."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    reads = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    named = list(module.named_modules(remove_duplicate=False))
    modules = Counter(id(part) for _, part in named)
    owners = count_owners(module)
    return {
        name
        for name, part in named
        if calls[name] == modules[id(part)] == 1
        and not any(read.startswith(f"{name}.") for read in reads)
        and not _has_hooks(part)
        and all(owners[id(tensor)] == 1 for tensor in (*part.parameters(), *part.buffers()))
    }


def _has_hooks(part: nn.Module) -> bool:
    """Whether hooks may see the units, as those of weight_norm and torch.nn.utils.prune do.

    A hook with `sees_units` set to False says that it does not.
    """
    hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    return any(getattr(hook, "sees_units", True) for hook in hooks)


def _is_layer(part: nn.Module) -> bool:
    if isinstance(part, _ConvNd):
        return type(part) in _CONVOLUTIONS and part.groups == 1
    return type(part) is nn.Linear


def _link(first: fx.Node, parts: Mapping[str, nn.Module], lone: set[str]) -> _Link | None:
    """Follow the output of a layer to the next one; None if anything on the way is not known."""
    node, layer = first, parts[str(first.target)]
    units = len(_weight_of(layer))
    maps = isinstance(layer, _ConvNd)  # units are the second axis of what goes on, not the last
    between: list[str] = []
    flat, keeps_zero, norm = False, True, ""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.all_input_nodes != [node]:
            return None
        name = str(user.target)
        part = parts.get(name) if user.op == "call_module" else None
        if part is not None and _is_layer(part):
            fits = isinstance(part, _ConvNd) == (maps and not flat)
            if not fits or name not in lone or _weight_of(part).shape[1] % units:
                return None
            return _Link(str(first.target), tuple(between), name, keeps_zero, norm)
        spatial = maps and not flat
        if spatial and _counts_units(part, units):
            if name not in lone:
                return None
            between.append(name)
            keeps_zero = False
            norm = name if isinstance(part, _BatchNorm) and part.affine else ""
        elif spatial and _flattens(user, part):
            flat = True
        elif not _treats_alike(user, part, spatial):
            return None
        kind = type(part).__name__.lower() if part is not None else _name(user)
        keeps_zero, norm = (keeps_zero, norm) if kind not in _MOVES_ZERO else (False, "")
        node = user
    return None


def _weight_of(layer: nn.Module) -> Tensor:
    """The weight, no parameter while training shows quantized weights in its place."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _counts_units(part: nn.Module | None, units: int) -> bool:
    if isinstance(part, _BatchNorm):
        return type(part) in _NORMS and part.num_features == units
    if isinstance(part, _ConvNd):
        return type(part) in _CONVOLUTIONS and part.groups == units == part.out_channels
    return False


def _flattens(user: fx.Node, part: nn.Module | None) -> bool:
    """Whether a node makes one axis of all but the batch's."""
    if part is not None:
        return type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)
    if user.target != "flatten" and user.target is not torch.flatten:
        return False
    dims: dict[str, Any] = dict(zip(("start_dim", "end_dim"), user.args[1:], strict=False))
    dims.update(user.kwargs)
    return dims.get("start_dim") == 1 and dims.get("end_dim", -1) == -1


def _treats_alike(user: fx.Node, part: nn.Module | None, pools: bool) -> bool:
    if part is not None:
        kinds = (*_ACTIVATIONS, *(_POOLS if pools else ()))
        return type(part) in kinds
    names = _ACTIVATION_NAMES | (_POOL_NAMES if pools else set())
    name = _name(user)
    if user.op == "call_method":
        return name in names
    known = (getattr(torch, name, None), getattr(F, name, None))
    return user.op == "call_function" and name in names and user.target in known


def _name(user: fx.Node) -> str:
    """Name of the method or the function that a node calls."""
    return str(user.target if user.op == "call_method" else getattr(user.target, "__name__", ""))
