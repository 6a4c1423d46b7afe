"""Which parameters are trained on levels: chosen late, and again whenever the network changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import nn

from hemp_lightning.quantization.selection import select_tensors


@dataclass(frozen=True)
class Changes:
    """What a new choice has changed.

    Attributes:
        renamed: New names of parameters that stayed, by their old ones.
        replaced: Names whose parameter is another one than before.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)


class ChosenTensors:
    """The parameters of a module that are quantized.

    Args:
        tensors: See `select_tensors`.

    Attributes:
        parameters: Parameters by name.

    Example:
        >>> chosen, net = ChosenTensors("weights"), nn.Sequential(nn.Linear(2, 2))
        >>> chosen.update(net, net)
        Changes(renamed={}, replaced=[])
        >>> net[0].weight = nn.Parameter(net[0].weight.detach().clone())
        >>> chosen.update(net, net)
        Changes(renamed={}, replaced=['0.weight'])
        >>> chosen.update(net, net) is None
        True
    """

    def __init__(self, tensors: str | Sequence[str]) -> None:
        self.tensors = tensors
        self.parameters: dict[str, nn.Parameter] = {}
        self._seen: tuple[int | bool | str, ...] = ()

    def update(
        self, whole: nn.Module, root: nn.Module, more: Collection[int] = ()
    ) -> Changes | None:
        """Choose again if the network has changed since the last time.

        Args:
            whole: The module that is watched for changes.
            root: `whole` or a part of it, whose parameters are chosen.
            more: The `id` of each parameter that is chosen as well, if it is in `root`.

        Returns:
            What changed; None if nothing did.

        Raises:
            ValueError: If there is nothing to choose.
        """
        seen: list[int | bool | str] = []
        for part in whole.modules():
            seen += part._parameters  # a name may pass to another parameter, as with pruning
            seen += map(id, part._parameters.values())
            seen.append(part.__dict__.get("_compiled_call_impl") is None)
        if tuple(seen) == self._seen:
            return None
        names = {id(parameter): name for name, parameter in root.named_parameters()}
        before = self.parameters
        # under another name too, such as `weight_orig` while a layer is pruned
        kept = {names[id(p)]: p for p in before.values() if id(p) in names}
        try:
            found = select_tensors(root, self.tensors)
        except ValueError:
            if not kept and not more:
                raise
            found = {}
        self.parameters = {
            name: p for name, p in root.named_parameters() if name in found | kept or id(p) in more
        }
        self._seen = tuple(seen)
        return Changes(
            {
                name: names[id(p)]
                for name, p in before.items()
                if id(p) in names and names[id(p)] != name
            },
            [n for n, p in self.parameters.items() if n in before and before[n] is not p],
        )
