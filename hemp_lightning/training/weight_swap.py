"""Quantized weights in the place of the real ones for a while, unseen by autograd."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hemp_lightning.quantization.codebook import Codebook


class StandIn:
    """Puts quantized weights into parameters, and the real ones back bit for bit.

    Args:
        parameters: Parameters by name.

    Attributes:
        active: Whether quantized weights are in place now.

    Example:
        >>> parameter = nn.Parameter(torch.tensor([0.1, 0.9]))
        >>> stand_in = StandIn({"a": parameter})
        >>> stand_in.enter({"a": Codebook(torch.tensor([0.0, 1.0]))})
        >>> parameter.tolist(), stand_in.real_weights()["a"].tolist()
        ([0.0, 1.0], [0.10000000149011612, 0.8999999761581421])
        >>> stand_in.leave()
        >>> parameter.tolist()
        [0.10000000149011612, 0.8999999761581421]
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.active = False
        self._parameters = parameters
        self._real: dict[str, Tensor] = {}

    @torch.no_grad()
    def enter(self, codebooks: Mapping[str, Codebook]) -> None:
        """Put quantized weights in place, unless they are or there are no codebooks.

        Args:
            codebooks: Codebooks by the names of the parameters; or none.
        """
        if self.active or not codebooks:
            return
        for name, parameter in self._parameters.items():
            if name not in self._real:  # memory that stays for the next time
                self._real[name] = torch.empty_like(parameter)
            self._real[name].copy_(parameter)
            # in place, without a new version: autograd must not see it
            codebooks[name].quantize(self._real[name], out=parameter.data)
        self.active = True

    @torch.no_grad()
    def leave(self) -> None:
        """Put the real weights back, if quantized ones are in place."""
        if not self.active:
            return
        for name, parameter in self._parameters.items():
            parameter.data.copy_(self._real[name])
        self.active = False

    def real_weights(self) -> dict[str, Tensor]:
        """Copies of the real weights by name; of those in place if no quantized ones are."""
        return {
            name: (self._real[name] if self.active else parameter.detach()).clone()
            for name, parameter in self._parameters.items()
        }
