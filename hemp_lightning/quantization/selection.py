"""Which parameters of a network are quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

from hemp_lightning.errors import listed

WEIGHTED = (_ConvNd, nn.Linear, nn.Embedding, nn.EmbeddingBag)


def select_tensors(
    module: nn.Module, tensors: str | Sequence[str] = "weights"
) -> dict[str, nn.Parameter]:
    """Parameters of `module` to quantize, by name; a shared parameter once, by its first name.

    Args:
        module: Any module.
        tensors: `weights` for the weights of convolutions, linear layers and embeddings; `layers`
            for their biases too; `all` for every floating parameter, norm scales too; or names,
            or patterns with `*`.

    Returns:
        Parameters with at least one entry, in the order of `module.named_parameters()`.

    Raises:
        ValueError: If a name matches no floating parameter, or none is left.

    Example:
        >>> list(select_tensors(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
        ['0.weight']
        >>> list(select_tensors(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), "layers"))
        ['0.weight', '0.bias']
        >>> list(select_tensors(nn.Linear(3, 2), ["*bias"]))
        ['bias']
    """
    floating = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point() and parameter.numel()
    }
    if tensors == "all":
        chosen = floating
    elif tensors in ("weights", "layers"):
        owners = [owner for owner in module.modules() if isinstance(owner, WEIGHTED)]
        own = {id(owner.weight) for owner in owners}
        if tensors == "layers":
            own |= {
                id(bias) for owner in owners if (bias := getattr(owner, "bias", None)) is not None
            }
        chosen = {name: p for name, p in floating.items() if id(p) in own}
    else:
        patterns = [tensors] if isinstance(tensors, str) else list(tensors)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in floating):
                raise ValueError(
                    f"`tensors` must be 'weights', 'layers', 'all', or names of floating "
                    f"parameters; found {pattern!r}, which matches none of {listed(list(floating))}"
                )
        chosen = {
            name: p
            for name, p in floating.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }
    if not chosen:
        raise ValueError(
            f"`tensors`={tensors!r} selects nothing in {type(module).__name__}: expected at least "
            f"one floating parameter; found {listed(list(floating))}"
        )
    return chosen


def count_owners(module: nn.Module) -> Counter[int]:
    """How many modules hold each parameter and buffer as their own, by the `id` of the tensor.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> count_owners(nn.ModuleList([layer, layer]))[id(layer.weight)]
        1
    """
    return Counter(
        id(tensor)
        for part in module.modules()
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False))
    )
