"""BatchNorm in two numbers a channel and not four, for a smaller file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemp_lightning.file.format.steps import round_to_steps
from hemp_lightning.quantization.selection import count_owners

_FAR = 16.0  # deviations between the mean of a channel and 0


@torch.no_grad()
def folded_state(
    module: nn.Module, quantized: Collection[str] = (), float_dtype: str = "steps"
) -> dict[str, Tensor]:
    """The state_dict of a module whose BatchNorms have mean 0 and weights of one size.

    In evaluation mode a norm computes `scale * x + shift`, which is two numbers of each channel and
    not four. Here they are in its variance and its bias; what is left is the same for all channels,
    but for a sign, and takes next to no room in a file. What the file rounds off the scale is taken
    out of the shift, for the mean of the channel. To *train* such a network further is another
    thing: there, a norm divides by the variance of the batch.

    Args:
        module: Any module; it is not changed.
        quantized: Names of tensors that are to stay as they are, with all of their norm.
        float_dtype: How scales will be held in the file, see `save`.

    Returns:
        With the keys of `module.state_dict()`; what is folded is on the CPU. Norms that have no
        weights or no statistics, that share them, or that are not in float32, are as they were.

    Example:
        >>> norm = nn.BatchNorm1d(2, eps=0.0)
        >>> norm.load_state_dict({"weight": torch.tensor([3.0, -2.0]), "bias": torch.ones(2),
        ...     "running_mean": torch.tensor([0.0, 6.0]), "running_var": torch.tensor([9.0, 4.0]),
        ...     "num_batches_tracked": torch.tensor(1)})
        <All keys matched successfully>
        >>> [folded_state(norm)[name].tolist() for name in ("weight", "bias", "running_var")]
        [[4.0, -4.0], [1.0, 7.0], [16.0, 16.0]]
    """
    state = dict(module.state_dict())
    owners = count_owners(module)
    done: dict[int, dict[str, Tensor]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        if not isinstance(part, _BatchNorm) or not _can_fold(part, owners):
            continue
        if any(prefix + leaf in quantized for leaf in ("weight", "bias")):
            continue
        if id(part) not in done:
            done[id(part)] = _fold(part, float_dtype)
        state.update({prefix + leaf: tensor for leaf, tensor in done[id(part)].items()})
    return state


def _can_fold(norm: _BatchNorm, owners: Counter[int]) -> bool:
    tensors = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    if any(tensor is None or tensor.dtype != torch.float32 for tensor in tensors):
        return False
    whole = owners[id(norm.weight)] == owners[id(norm.bias)] == 1
    return whole and all(bool(tensor.isfinite().all()) for tensor in tensors if tensor is not None)


def _fold(norm: _BatchNorm, float_dtype: str) -> dict[str, Tensor]:
    weight, bias, mean, variance = (
        tensor.detach().double().cpu()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        if tensor is not None
    )
    size = 2.0 ** math.frexp(float(weight.abs().max()))[1]  # above all weights: no variance is 0
    spread = (variance + norm.eps) * (size / weight).square() - norm.eps
    folded = torch.where(weight == 0, 1.0, spread).float()
    if float_dtype == "steps":
        rounded = round_to_steps(folded)
        folded = folded if rounded is None else rounded
    weight = size * weight.sign()
    # a channel that is all but constant keeps its mean: its shift would have no digits left
    kept = torch.where(mean.square() > _FAR**2 * (variance + norm.eps), mean, 0.0)
    shift = bias - (mean - kept) * weight / (folded.double() + norm.eps).sqrt()
    return {
        "weight": weight.float(),
        "bias": shift.float(),
        "running_mean": kept.float(),
        "running_var": folded,
    }
