"""Which parameters of a network are quantized."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

WEIGHTED = (_ConvNd, nn.Linear, nn.Embedding, nn.EmbeddingBag)


def select_tensors(
    module: nn.Module, tensors: str | Sequence[str] = "weights"
) -> dict[str, nn.Parameter]:
    """Parameters of `module` to quantize, by name; a shared parameter once, by its first name.

    Args:
        module: Any module.
        tensors: `weights` for the weights of convolutions, linear layers and embeddings; `all` for
            every floating parameter, biases and norm scales too; or names, or patterns with `*`.

    Returns:
        Parameters with at least one entry, in the order of `module.named_parameters()`.

    Raises:
        ValueError: If a name matches no floating parameter, or none is left.

    Example:
        >>> list(select_tensors(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
        ['0.weight']
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
    elif tensors == "weights":
        weights = {id(owner.weight) for owner in module.modules() if isinstance(owner, WEIGHTED)}
        chosen = {name: p for name, p in floating.items() if id(p) in weights}
    else:
        patterns = [tensors] if isinstance(tensors, str) else list(tensors)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in floating):
                raise ValueError(
                    f"`tensors` must be 'weights', 'all', or names of floating parameters; found "
                    f"{pattern!r}, which matches none of {_some(list(floating))}"
                )
        chosen = {
            name: p
            for name, p in floating.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }
    if not chosen:
        raise ValueError(
            f"`tensors`={tensors!r} selects nothing in {type(module).__name__}: expected at least "
            f"one floating parameter; found {_some(list(floating))}"
        )
    return chosen


def _some(names: list[str]) -> str:
    if not names:
        return "no floating parameters"
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
