"""Rate models: where the bits per weight that training pays, and their gradient, come from.

`tuples` is the entropy of `entropy.py`. `context` takes the code lengths of the context coder: at
the start of an epoch, and at each refit, it codes the indices of that moment and notes, for every
weight, what each level would have cost in its place. Until the next time these lengths stay. A
weight between two levels pays the mean of their two lengths, split as the soft entropy splits it:

    R = (1/P) * sum_t (1 - f_t) * l_t(i) + f_t * l_t(i + 1),   f_t = (w_t - c_i) / (c_{i+1} - c_i)

    dR/dw_t = (1/P) * (l_t(i + 1) - l_t(i)) / (c_{i+1} - c_i)

Beyond the end levels the gradient is 0. What a weight does to the contexts of others is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hemp_lightning.coding.context.frequency_coder import context_coder
from hemp_lightning.entropy import cpu
from hemp_lightning.entropy.lengths import bits_and_gradient
from hemp_lightning.quantization.codebook import Codebook

RATE_MODELS = ("tuples", "context")
"""`tuples`: joint entropy at order n; `context`: code lengths of the context coder."""


def context_lengths(indices: Tensor, num_levels: int, transform: str = "none") -> Tensor:
    """Code length of each level in the place of each index.

    Args:
        indices: Integers in `[0, num_levels)`, any shape.
        num_levels: From 1 to 256.
        transform: What the weights went through before they got indices.

    Returns:
        Bits, float32, of the shape of `indices` and a last axis of `num_levels`, on its device.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> context_lengths(torch.zeros(20, 30, dtype=torch.int64), 2)[-1, -1].argmax()
        tensor(1)
    """
    array = indices.detach().cpu().numpy()
    lengths = context_coder(transform).lengths(array, num_levels)
    return torch.from_numpy(lengths).to(indices.device)


def rate_and_gradients(
    weights: Sequence[Tensor], levels: Sequence[Tensor], lengths: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Rate of weights between levels of known code lengths, and its gradient.

    Args:
        weights: Tensors of any shapes, floating.
        levels: Levels of each tensor, strictly ascending, `(num_levels,)`.
        lengths: Bits of each level at each weight: shape of the weights and `num_levels`.

    Returns:
        Rate in bits per weight over all tensors, a float64 scalar; its gradient with respect to
        each tensor, of its shape.

    Raises:
        ValueError: If shapes do not agree.

    Example:
        >>> weights, levels = torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1.0])
        >>> lengths = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
        >>> rate, (gradient,) = rate_and_gradients([weights], [levels], [lengths])
        >>> rate.item(), gradient  # (2 + 3) / 2; (3 - 1) / 2 inside, 0 beyond the last level
        (2.5, tensor([1., 0.]))
    """
    count = max(1, sum(tensor.numel() for tensor in weights))
    bits, gradients = torch.zeros((), dtype=torch.float64), []
    for tensor, entry, length in zip(weights, levels, lengths, strict=True):
        if length.shape != (*tensor.shape, len(entry)):
            raise ValueError(
                f"`lengths` must have shape {(*tensor.shape, len(entry))}; "
                f"found {tuple(length.shape)}"
            )
        bits = bits.to(tensor.device)
        if len(entry) == 1:
            bits += length.double().sum()
            gradients.append(torch.zeros_like(tensor))
            continue
        entry = entry.to(tensor)
        single = {tensor.dtype, length.dtype} == {torch.float32}
        compiled = cpu.IS_COMPILED and tensor.is_cpu and length.is_cpu and single
        own, gradient = (bits_and_gradient if compiled else _plain)(tensor, entry, length, count)
        bits += own
        gradients.append(gradient)
    return bits / count, gradients


def _plain(tensor: Tensor, levels: Tensor, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`lengths.bits_and_gradient` for any dtype on any device."""
    cell = torch.bucketize(tensor.contiguous(), levels[1:-1], right=True)
    gap = (levels[1:] - levels[:-1])[cell]
    place = (tensor - levels[cell]) / gap
    lower = lengths.gather(-1, cell[..., None])[..., 0]
    step = lengths.gather(-1, cell[..., None] + 1)[..., 0] - lower
    bits = (lower + place.clamp(0, 1) * step).double().sum()
    inside = (place >= 0) & (place < 1)
    return bits, (step * inside / (gap * count)).to(tensor.dtype)


def warm_up() -> None:
    """Compile the loops of `context`, so that no training step waits for it.

    Example:
        >>> warm_up()
    """
    levels = torch.tensor([0.0, 1.0])
    rate_and_gradients([levels], [levels], [context_lengths(torch.tensor([0, 1]), 2)])


class ContextRates:
    """The code lengths of a network's tensors, from the indices they had at one moment.

    Only those indices are kept in a checkpoint; lengths follow from them.

    Example:
        >>> rates = ContextRates()
        >>> book = Codebook(torch.tensor([0.0, 1.0]), torch.tensor([0.5]))
        >>> rates.take({"w": torch.zeros(9, 9)}, {"w": book})
        >>> rate, _ = rates.rate_and_gradients(["w"], [torch.zeros(9, 9)], [book.levels])
        >>> rate.item() < 0.1
        True
    """

    def __init__(self) -> None:
        self._indices: dict[str, tuple[Tensor, int, str]] = {}
        self._lengths: dict[str, Tensor] = {}

    def take(self, weights: Mapping[str, Tensor], codebooks: Mapping[str, Codebook]) -> None:
        """Take the lengths anew, from the indices that the weights have now."""
        self._lengths = {}
        for name, tensor in weights.items():
            book = codebooks[name]
            indices = book.assign(tensor.detach()).to(torch.int32)
            self._indices[name] = indices, book.num_levels, book.transform

    def fits(self, weights: Mapping[str, Tensor], codebooks: Mapping[str, Codebook]) -> bool:
        """Whether lengths were taken from such tensors, with as many levels each."""
        wanted = {name: (w.shape, codebooks[name].num_levels) for name, w in weights.items()}
        found = {name: (entry[0].shape, entry[1]) for name, entry in self._indices.items()}
        return all(found.get(name) == entry for name, entry in wanted.items())

    def rate_and_gradients(
        self, names: Sequence[str], weights: Sequence[Tensor], levels: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """`rate_and_gradients` of these tensors."""
        for name, tensor in zip(names, weights, strict=True):
            if name not in self._lengths:
                self._lengths[name] = context_lengths(*self._indices[name]).to(tensor.device)
        return rate_and_gradients(weights, levels, [self._lengths[name] for name in names])

    def state_dict(self) -> dict[str, Any]:
        """The indices that lengths were taken from, with numbers of levels and transforms."""
        return {name: (entry[0].cpu(), *entry[1:]) for name, entry in self._indices.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._indices = dict(state_dict)
        self._lengths = {}
