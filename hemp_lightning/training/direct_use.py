"""Weights that a loss uses past the forward passes of modules, found in its graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

VIEWS = re.compile(
    r"(T|Transpose|Permute|View|UnsafeView|Reshape|ReshapeAlias|Expand|ToCopy|Clone|Unsqueeze|"
    r"Squeeze|Slice|Select|AsStrided|Alias)Backward\d*"
)
"""Nodes behind which a weight is still the weight."""

PRODUCTS = re.compile(
    r"\w*([Mm]m|Matmul|Linear|Conv|Bilinear|Embedding|Index|Gather|Mv|Dot|CompiledFunction)\w*"
    r"Backward\d*"
)
"""Nodes that join weights with data; a penalty on weights has others."""


def used_directly(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Names of the parameters that themselves, not quantized, take part in a product or a look-up.

    Penalties on weights, such as the sum of their squares, are no such use.

    Args:
        loss: A scalar with a graph, before its backward pass.
        parameters: Parameters by name.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> loss = layer(layer.bias.new_ones(1, 2)).sum()
        >>> used_directly(loss, {"weight": layer.weight})
        ['weight']
        >>> used_directly(layer.weight.square().sum(), {"weight": layer.weight})
        []
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    found = set()
    waiting, seen = [loss.grad_fn], {None, loss.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        inputs = [child for child, _ in node.next_functions if child is not None]
        if PRODUCTS.fullmatch(type(node).__name__):
            leaves = [_leaf(child) for child in inputs]
            # a weight times itself, as in a penalty on what is not orthogonal
            if len(leaves) == 1 or len(set(leaves)) > 1:
                found |= {names[leaf] for leaf in leaves if leaf in names}
        waiting += [child for child in inputs if child not in seen]
        seen.update(inputs)
    return [name for name in parameters if name in found]


def _leaf(node: Any) -> int | None:
    """The `id` of the parameter that a node of the graph is, or is a view of."""
    while VIEWS.fullmatch(type(node).__name__):
        inputs = [child for child, _ in node.next_functions if child is not None]
        if len(inputs) != 1:
            return None
        node = inputs[0]
    variable = getattr(node, "variable", None)
    return None if variable is None else id(variable)
