"""How far the outputs of two networks are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0
"""Scores are divided by this before their distributions are compared in training."""

Distance = Callable[[Any, Any], Tensor]
"""From outputs, and those of the float network, to a scalar."""


def output_tensors(outputs: Any) -> list[Tensor]:
    """Floating tensors of a nest of outputs, in order.

    Raises:
        ValueError: If there are none.

    Example:
        >>> [t.shape[0] for t in output_tensors({"a": torch.ones(2), "b": (torch.ones(3), None)})]
        [2, 3]
    """
    found = _floating(outputs)
    if not found:
        raise ValueError(
            "the network must return at least one floating tensor, alone or in tuples, lists or "
            f"dicts; found {type(outputs).__name__}"
        )
    return found


def are_scores(outputs: Any) -> bool:
    """Whether outputs are scores of classes: one floating tensor `(num_inputs, num_classes)`.

    Example:
        >>> are_scores(torch.ones(4, 10)), are_scores(torch.ones(4, 1)), are_scores([])
        (True, False, False)
    """
    found = _floating(outputs)
    return len(found) == 1 and found[0].ndim == 2 and found[0].shape[1] > 1


def default_distance(outputs: Any, wanted: Any) -> Tensor:
    """Divergence of class distributions for scores; else the mean relative squared error.

    Args:
        outputs: Of the network in question, floating tensors of any nest.
        wanted: Of the float network, of the same nest and shapes.

    Returns:
        A scalar: nats at a temperature of `TEMPERATURE`, times its square; or no unit.

    Example:
        >>> scores = torch.tensor([[1.0, 0.0]])
        >>> default_distance(scores, scores).item()
        0.0
        >>> default_distance(torch.tensor([3.0]), torch.tensor([2.0])).item()
        0.25
    """
    found, targets = output_tensors(outputs), output_tensors(wanted)
    if are_scores(wanted):
        return TEMPERATURE**2 * F.kl_div(
            F.log_softmax(found[0].float() / TEMPERATURE, 1),
            F.log_softmax(targets[0].float() / TEMPERATURE, 1),
            reduction="batchmean",
            log_target=True,
        )
    errors = [
        (own.float() - target.float()).square().sum()
        / target.float().square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        for own, target in zip(found, targets, strict=True)
    ]
    return torch.stack(errors).mean()


class Drop:
    """Disagreement with the float network, summed over batches.

    Args:
        distance: The user's own measure; None for the share of inputs whose best class changed, of
            scores, and the relative error of everything else.

    Example:
        >>> drop = Drop(None)
        >>> drop.add(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> drop.value
        0.5
    """

    def __init__(self, distance: Distance | None) -> None:
        self._distance = distance
        self._sum = 0.0
        self._count = 0.0
        self._root = False
        self.distance = 0.0

    def add(self, outputs: Any, wanted: Any) -> None:
        """Count one batch.

        Raises:
            ValueError: If `outputs` have NaN, or the user's measure is no number.
        """
        first = output_tensors(outputs)
        size = len(first[0]) if first[0].ndim else 1
        own = default_distance(outputs, wanted) if self._distance is None else None
        if self._distance is not None:
            own = self._distance(outputs, wanted)
            if not isinstance(own, Tensor) or own.numel() != 1:
                raise ValueError("`distance` must return a scalar tensor; found " + _kind(own))
        assert own is not None
        self.distance += float(own) * size
        if self._distance is not None:
            self._sum += float(own) * size
            self._count += size
        elif are_scores(wanted):
            changed = first[0].argmax(1) != output_tensors(wanted)[0].argmax(1)
            self._sum += int(changed.sum())
            self._count += size
        else:
            self._root = True
            self._sum += float(own) * size
            self._count += size

    @property
    def value(self) -> float:
        """The disagreement over all batches."""
        mean = self._sum / max(self._count, 1.0)
        return mean**0.5 if self._root else mean

    @property
    def name(self) -> str:
        """What the value is."""
        if self._distance is not None:
            return "distance"
        return "relative error" if self._root else "changed top-1"


def _kind(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _floating(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return [tensor for value in outputs for tensor in _floating(value)]
    return []
