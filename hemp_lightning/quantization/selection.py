"""Which tensors of a network are quantized: of a module, and of a bare state_dict.

Both choose the same tensors wherever names and shapes tell what a tensor is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from hemp_reader.errors import listed

WEIGHTED = (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)
WORDS = ("weights", "layers", "all")
"""What `tensors` may say in place of names."""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []))
# Of weight_norm, in its two forms: the scale of each channel beside the direction.
_SCALES = (("_g", "_v"), ("original0", "original1"))
_PRUNED, _MASK = "_orig", "_mask"
_PARAMETRIZED = "parametrizations"


def select_tensors(
    module: nn.Module, tensors: str | Sequence[str] = "weights"
) -> dict[str, nn.Parameter]:
    """Parameters of `module` to quantize, by name; a shared parameter once, by its first name.

    Args:
        module: Any module.
        tensors: `weights` for all floating parameters with two axes or more that are no scale of a
            norm: of convolutions, linear, recurrent and attention layers, embeddings, and what
            weight_norm, spectral_norm, parametrizations and pruning put in their place; `layers`
            for the biases beside them too; `all` for every floating parameter; or names, or
            patterns with `*`. A name or pattern after `!` leaves tensors out: `["weights",
            "!head.*"]`, or `"!head.*"` alone, which means the same.

    Returns:
        Parameters with at least one entry, in the order of `module.named_parameters()`.

    Raises:
        ValueError: If a name matches no floating parameter, if none is left, or if a lazy module
            has no parameters yet.

    Example:
        >>> list(select_tensors(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
        ['0.weight']
        >>> list(select_tensors(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), "layers"))
        ['0.weight', '0.bias']
        >>> list(select_tensors(nn.Linear(3, 2), ["*bias"]))
        ['bias']
        >>> list(select_tensors(nn.LSTM(3, 2), "!*_hh_*"))
        ['weight_ih_l0']
    """
    lazy = [name for name, parameter in module.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"parameters must have a shape before they are quantized; found {listed(lazy)} of lazy "
            "modules that have seen no batch. Run one through the network first"
        )
    floating = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.is_floating_point() and parameter.numel()
    }
    known = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    known += [name for name, _ in module.named_buffers()]
    weights = _weights_of(module, floating)
    words = {"weights": weights, "layers": _with_biases(floating, weights), "all": set(floating)}
    chosen = matching(list(floating), tensors, words, known)
    if not chosen:
        raise ValueError(
            f"`tensors`={tensors!r} selects nothing in {type(module).__name__}: expected at least "
            f"one floating parameter; found {listed(list(floating))}"
        )
    return {name: floating[name] for name in chosen}


def weights_by_name(tensors: Mapping[str, Tensor]) -> set[str]:
    """What `weights` means where there are only names and tensors: two axes or more.

    Args:
        tensors: Floating tensors of a state_dict, by name.

    Returns:
        Their names, but for the scales of weight_norm: those go with the biases.

    Example:
        >>> import torch
        >>> state = {"a.weight_g": torch.ones(4, 1), "a.weight_v": torch.ones(4, 3)}
        >>> weights_by_name(state)
        {'a.weight_v'}
    """
    return {n for n, tensor in tensors.items() if tensor.ndim >= 2 and not _is_scale(n, tensors)}


def matching(
    names: Sequence[str],
    tensors: str | Sequence[str],
    words: Mapping[str, Collection[str]],
    known: Iterable[str] = (),
) -> list[str]:
    """The names that `tensors` chooses, in the order of `names`.

    Args:
        names: What can be chosen.
        tensors: Words, names, patterns; after `!` what is left out. See `select_tensors`.
        words: The names that each word stands for; it has `weights`.
        known: Further names, which `!` may name though they cannot be chosen.

    Raises:
        TypeError: If `tensors` holds something other than strings.
        ValueError: If a name or pattern matches nothing.

    Example:
        >>> matching(["a", "b", "c"], ["*", "!b"], {"weights": []})
        ['a', 'c']
    """
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]
    if wrong:
        raise TypeError(f"`tensors` must be a name or a list of names; found {wrong[0]!r}")
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for pattern, among in [
        *((pattern, names) for pattern in wanted if pattern not in words),
        *((pattern, [*names, *known]) for pattern in unwanted if pattern not in words),
    ]:
        if not any(_matches(name, pattern) for name in among):
            raise ValueError(
                f"`tensors` must be {', '.join(map(repr, words))}, or names of floating tensors; "
                f"found {pattern!r}, which matches none of {listed(list(among))}"
            )

    def is_among(name: str, patterns: list[str]) -> bool:
        return any(name in words.get(p, ()) or _matches(name, p) for p in patterns)

    if unwanted and not wanted:
        wanted = ["weights"]
    return [n for n in names if is_among(n, wanted) and not is_among(n, unwanted)]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def named_exactly(tensors: str | Sequence[str]) -> set[str]:
    """The names in `tensors` that stand there in full: no word, no pattern, none left out.

    Example:
        >>> named_exactly(["weights", "head.*", "!a", "mask"])
        {'mask'}
    """
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    return {
        p for p in patterns if p not in WORDS and not p.startswith("!") and not set(p) & {*"*?["}
    }


def pruning_masks(names: Iterable[str]) -> dict[str, str]:
    """The mask of each tensor that `torch.nn.utils.prune` prunes, by the name of the tensor.

    Example:
        >>> pruning_masks(["a.weight_orig", "a.weight_mask", "b.mask"])
        {'a.weight_orig': 'a.weight_mask'}
    """
    known = set(names)
    masks = {n: n.removesuffix(_PRUNED) + _MASK for n in sorted(known) if n.endswith(_PRUNED)}
    return {name: mask for name, mask in masks.items() if mask in known}


def _weights_of(module: nn.Module, floating: Mapping[str, nn.Parameter]) -> set[str]:
    """Names of the weights: a layer of `WEIGHTED` has one, others are known by their axes."""
    layers = {id(part.weight) for part in module.modules() if isinstance(part, WEIGHTED)}
    scales = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, _NORMS)
        for parameter in part.parameters(recurse=False)
    }
    return {
        name
        for name, parameter in floating.items()
        if id(parameter) in layers
        or (parameter.ndim >= 2 and id(parameter) not in scales and not _is_scale(name, floating))
    }


def _with_biases(floating: Mapping[str, Tensor], weights: set[str]) -> set[str]:
    """The weights, and the biases that stand beside one of them."""
    layers = {_layer_of(name) for name in weights}
    return weights | {
        name for name in floating if "bias" in name.rpartition(".")[2] and _layer_of(name) in layers
    }


def _layer_of(name: str) -> str:
    """Name of the layer that a parameter belongs to, parametrized or not."""
    parts = name.split(".")[:-1]
    return ".".join(parts[: parts.index(_PARAMETRIZED)] if _PARAMETRIZED in parts else parts)


def _is_scale(name: str, names: Collection[str]) -> bool:
    return any(
        name.endswith(scale) and name.removesuffix(scale) + direction in names
        for scale, direction in _SCALES
    )


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
