"""What a network makes of noise: how much each tensor counts, where no inputs are given.

Norms divide by the statistics of the noise itself, so that every layer sees values of the size that
it was trained for. On pretrained ResNets the relative error of outputs is then 1.4 to 1.8 times
that on images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemp_lightning.calibration.candidates import on, outputs_of
from hemp_lightning.calibration.covariance import plain_attention
from hemp_lightning.calibration.distances import default_distance, output_tensors
from hemp_lightning.calibration.inputs import Call, Inputs
from hemp_lightning.quantization.codebook import Codebook

WITH_NORMS, WITHOUT_NORMS = 0.1, 0.035
"""Relative error of the outputs on noise that is safe: with BatchNorm, and without."""

_BATCH = 8  # inputs of one backward pass
_COUNT = 64
_PIXELS = 64 * 64 * _COUNT  # the most, of all images
_SIDES = (64, 32, 28, 224)
_LENGTH = 16  # of sequences


class Probe:
    """A network that is called with noise.

    Args:
        network: In float32; it is not changed.
        parameters: What will be quantized, by name.
        inputs: Noise that `network` takes, see `noise_for`.

    Attributes:
        curvatures: Relative squared error of the outputs for a squared error of 1 of each weight,
            the mean over the weights of a tensor, by name.
        safe: Relative error that does no harm.
    """

    def __init__(
        self, network: nn.Module, parameters: Mapping[str, nn.Parameter], inputs: Inputs
    ) -> None:
        self._network = _live(network)
        self._inputs = inputs
        self._weights = {name: p.detach() for name, p in parameters.items()}
        self._own = {name: p for name, p in self._network.named_parameters() if name in parameters}
        self.curvatures = self._curvatures()
        self._wanted = list(outputs_of(self._network, inputs))
        has_norms = any(isinstance(module, _BatchNorm) for module in network.modules())
        self.safe = WITH_NORMS if has_norms else WITHOUT_NORMS

    @torch.no_grad()
    def error(self, books: Mapping[str, Codebook]) -> float:
        """Relative error of the outputs with quantized weights, 0 for none."""
        for name, book in books.items():
            self._own[name].copy_(book.quantize(self._weights[name]))
        try:
            found = outputs_of(self._network, self._inputs)
            squares = [
                float(_squared_error(outputs, wanted))
                for outputs, wanted in zip(found, self._wanted, strict=True)
            ]
        finally:
            for name in books:
                self._own[name].copy_(self._weights[name])
        return (sum(squares) / len(squares)) ** 0.5

    def _curvatures(self) -> dict[str, float]:
        """By squared gradients along random signs of the outputs."""
        device = next(self._network.parameters()).device
        draw = torch.Generator(device=device).manual_seed(0)
        sums = dict.fromkeys(self._own, 0.0)
        count = 0
        with plain_attention():
            for call in self._inputs.batches(_BATCH):
                self._network.zero_grad(set_to_none=True)
                outputs = on(call, device)(self._network.eval())
                total = torch.zeros((), device=device)
                tensors = output_tensors(outputs)
                for tensor in tensors:
                    signs = torch.randint(0, 2, tensor.shape, generator=draw, device=device) * 2 - 1
                    size = tensor.detach().float().square().sum() * len(tensors)
                    total = total + (tensor.float() * signs).sum() / size.clamp_min(1e-12).sqrt()
                total.backward()
                count += 1
                for name, parameter in self._own.items():
                    if parameter.grad is not None:
                        sums[name] += float(parameter.grad.square().mean())
        self._network.zero_grad(set_to_none=True)
        return {name: entry / count for name, entry in sums.items()}


def noise_for(network: nn.Module) -> Inputs | None:
    """Noise that a network takes, guessed from its first layer; None if no guess is right.

    Example:
        >>> len(noise_for(nn.Sequential(nn.Linear(5, 3), nn.ReLU())))
        64
    """
    trial = _live(network)
    device = next(trial.parameters()).device
    for guess in _guesses(network):
        inputs = Inputs([Call((guess,), {})])
        call = on(next(inputs.batches(_BATCH)), device)
        try:
            with torch.no_grad():
                first, second = (output_tensors(call(trial)) for _ in range(2))
        except Exception:  # a network may refuse what it does not take in any way
            continue
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        if same and all(bool(a.isfinite().all()) and bool(a.any()) for a in first):
            return inputs
    return None


def _guesses(network: nn.Module) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            for side in _SIDES:
                yield noise(min(_COUNT, _PIXELS // side**2), layer.in_channels, side, side)
        elif isinstance(layer, nn.Conv1d):
            yield noise(_COUNT, layer.in_channels, 8 * _LENGTH)
        elif isinstance(layer, nn.Linear):
            yield noise(_COUNT, layer.in_features)
            yield noise(_COUNT, _LENGTH, layer.in_features)
        elif isinstance(layer, nn.Embedding):
            yield torch.randint(layer.num_embeddings, (_COUNT, _LENGTH), generator=draw)
        elif isinstance(layer, nn.RNNBase):
            yield noise(_COUNT, _LENGTH, layer.input_size)
        else:
            continue
        return


def _live(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorms take the statistics of the batch, in evaluation mode too."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean = module.running_var = None
            module.track_running_stats = False
    return network


def _squared_error(outputs: object, wanted: object) -> Tensor:
    """Relative squared error, also of scores."""
    pairs = zip(output_tensors(outputs), output_tensors(wanted), strict=True)
    return torch.stack([default_distance([a, a], [b, b]) for a, b in pairs]).mean()
