"""A whole network rounded by second order, at one price of a bit for all tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hemp_lightning.calibration.covariance import (
    Layer,
    Moments,
    layers_of,
    moments_of,
    sensitivities,
)
from hemp_lightning.calibration.inputs import Inputs
from hemp_lightning.calibration.second_order import factor_of, round_tensor, step_for
from hemp_lightning.quantization.codebook import Codebook

MOST_INPUTS = 512
"""Inputs that moments and sensitivities are taken from."""

MOST_PASSES = 20
"""Passes over the inputs, layer by layer; layers that follow one another share one beyond that."""

USUAL_ERROR = 0.03


class Rounding:
    """Rounds copies of a network at any price.

    Args:
        network: In float32 and evaluation mode; it is not changed.
        parameters: What is rounded, by name.
        inputs: What the network sees.
        transforms: Of each tensor, see `transforms_of`.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        inputs: Inputs,
        transforms: Mapping[str, str],
    ) -> None:
        self._network = network
        self._inputs = inputs.head(MOST_INPUTS)
        self._names = list(parameters)
        self._transforms = transforms
        self._sensitivities = sensitivities(network, parameters, self._inputs, seed=0)
        for name, own in self._sensitivities.items():  # few inputs say little of a single row
            mean = own.mean()
            self._sensitivities[name] = (own + 0.1 * mean).clamp_min(1e-20)
        layers = layers_of(network, self._names, self._inputs)
        self._moments = moments_of(network, layers, self._inputs) if layers else {}
        self._factors = self._factors_of(self._moments)  # each takes as long as a pass or two

    def usual_price(self) -> float:
        """The price at which rounding costs a few percent of the weights."""
        total = weighted = 0.0
        for name, own in self._sensitivities.items():
            weights = self._network.get_parameter(name).detach()
            harm = float(own.mean() * weights.square().mean()) + 1e-30
            weighted += weights.numel() * math.log(harm)
            total += weights.numel()
        return USUAL_ERROR * math.exp(weighted / total)

    def steps(self, price: float) -> dict[str, float]:
        """Step of each tensor, in units of its weights, at a price of a bit."""
        return {
            name: step_for(own, self._network.get_parameter(name), price)
            for name, own in self._sensitivities.items()
        }

    def at_once(self, price: float) -> tuple[nn.Module, dict[str, Codebook]]:
        """A rounded copy, by the inputs that layers of the float network see.

        Args:
            price: Loss units that a bit is worth.
        """
        network, books = copy.deepcopy(self._network), {}
        layers = {layer.name: layer for layer in layers_of(network, self._names, self._inputs)}
        for name in self._names:
            books[name] = self._round(
                network, name, layers.get(name), price, self._moments, self._factors
            )
        return network, books

    def layer_by_layer(self, price: float) -> tuple[nn.Module, dict[str, Codebook]]:
        """A rounded copy, by the inputs that layers see behind layers that are rounded."""
        network, books = copy.deepcopy(self._network), {}
        layers = layers_of(network, self._names, self._inputs)
        for name in set(self._names) - {layer.name for layer in layers}:
            books[name] = self._round(network, name, None, price, {}, {})
        size = max(1, math.ceil(len(layers) / MOST_PASSES))
        for start in range(0, len(layers), size):
            together = layers[start : start + size]
            moments = moments_of(network, together, self._inputs)
            for layer in together:
                factors = self._factors_of({layer.name: moments[layer.name]})
                books[layer.name] = self._round(network, layer.name, layer, price, moments, factors)
        return network, books

    def _factors_of(self, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        return {
            name: factor_of(
                own.second, self._network.get_parameter(name).shape, self._transforms[name]
            )
            for name, own in moments.items()
        }

    @torch.no_grad()
    def _round(
        self,
        network: nn.Module,
        name: str,
        layer: Layer | None,
        price: float,
        moments: Mapping[str, Moments],
        factors: Mapping[str, Tensor],
    ) -> Codebook:
        """Round one tensor of `network` in place."""
        weights = network.get_parameter(name)
        own = moments.get(name)
        step = step_for(self._sensitivities[name], weights, price)
        rounded, book = round_tensor(
            weights,
            step,
            self._sensitivities[name],
            factors.get(name),
            self._transforms[name],
        )
        if layer is not None and own is not None:
            _make_good(layer, weights, rounded, own)
        weights.copy_(rounded)
        return book


def _make_good(layer: Layer, weights: Tensor, rounded: Tensor, moments: Moments) -> None:
    """Let the norm or the bias of a layer take up what rounding does to its outputs.

    With a norm, mean and slope of the regression of the real outputs on the rounded ones; with a
    bias alone, the mean.
    """
    groups, size = moments.first.shape
    real, own = (
        tensor.reshape(groups, -1, size).double() for tensor in (weights.detach(), rounded)
    )
    first = moments.first.double()[:, :, None]
    second = moments.second.double() - first @ first.mT
    means = [(matrix @ first).reshape(-1) for matrix in (real, own)]
    norm = layer.norm
    if norm is not None and norm.running_mean is not None and norm.weight is not None:
        both = ((own @ second) * real).sum(2).reshape(-1)
        power = ((own @ second) * own).sum(2).reshape(-1)
        slope = torch.where(power > 0, both / power.clamp_min(1e-30), 1.0).clamp(0.5, 2.0)
        bias = getattr(layer.module, "bias", None)
        if bias is not None:
            means = [mean + bias.detach().double() for mean in means]
        shift = means[0] - slope * means[1]
        norm.weight.data.mul_(slope.to(norm.weight))
        mean = (norm.running_mean.double() - shift) / slope
        norm.running_mean.copy_(mean.to(norm.running_mean))
        return
    bias = getattr(layer.module, "bias", getattr(layer.module, "in_proj_bias", None))
    if isinstance(bias, Tensor):
        bias.data.add_((means[0] - means[1]).to(bias))
