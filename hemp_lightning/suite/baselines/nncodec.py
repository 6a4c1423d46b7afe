"""NNCodec: the coder of ISO/IEC 15938-17 (Neural Network Coding) on a trained network."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemp_lightning.suite.baselines.method import Method
from hemp_lightning.suite.baselines.weights import network_of

_FOLDED = (nn.modules.conv._ConvNd, nn.Linear)


@torch.no_grad()
def folded_norms(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fold each BatchNorm into the layer before it, under the network's own keys.

    The layer before takes the norm's scale, the norm's bias the whole shift; what is left of the
    norm is the same for all networks of this architecture. "Before" is by definition order, as in
    every network of the zoo.

    Args:
        network: Any network; it is not changed.

    Returns:
        What is left to code, and the constants that a decoder fills in; together the state dict of
        a network that computes the same in evaluation mode.

    Example:
        >>> coded, constants = folded_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        >>> list(coded), list(constants)
        (['0.weight', '1.bias'], ['0.bias', '1.weight', '1.running_mean', '1.running_var',
        '1.num_batches_tracked'])
    """
    state = {key: value.detach().clone() for key, value in network.state_dict().items()}
    constants: dict[str, Tensor] = {}
    layer: tuple[str, nn.Module] | None = None
    for name, module in network.named_modules():
        if isinstance(module, _FOLDED):
            layer = (name, module)
        elif isinstance(module, _BatchNorm) and layer and module.running_var is not None:
            _fold(state, constants, layer, (name, module))
            layer = None
    for key, value in state.items():
        if not value.is_floating_point():  # counters: no part of what the network computes
            constants[key] = torch.zeros_like(value)
    return {key: value for key, value in state.items() if key not in constants}, constants


def _fold(
    state: dict[str, Tensor],
    constants: dict[str, Tensor],
    layer: tuple[str, nn.Module],
    norm: tuple[str, _BatchNorm],
) -> None:
    weight, bias = f"{layer[0]}.weight", f"{layer[0]}.bias"
    mean, var = state[f"{norm[0]}.running_mean"], state[f"{norm[0]}.running_var"]
    factor = state[f"{norm[0]}.weight"] / (var + norm[1].eps).sqrt()  # (channels,)
    state[weight] *= factor.view(-1, *[1] * (state[weight].ndim - 1))
    shift = state.get(bias, torch.zeros_like(mean)) - mean
    state[f"{norm[0]}.bias"] += shift * factor
    if bias in state:
        constants[bias] = torch.zeros_like(mean)
    constants[f"{norm[0]}.weight"] = torch.ones_like(mean)
    constants[f"{norm[0]}.running_mean"] = torch.zeros_like(mean)
    constants[f"{norm[0]}.running_var"] = torch.full_like(var, 1.0 - norm[1].eps)


@dataclass(frozen=True)
class Bitstream:
    """A written bitstream, with what a run reports of it."""

    path: Path
    encode_seconds: float
    entropy_bits_per_weight: float | None = None  # the stream keeps its indices to itself


class NNCodec(Method):
    """Code the network when training has ended; the file is the standard's own bitstream.

    Source: Becking et al., NNCodec, ICML Neural Compression Workshop 2023; package `nncodec`. Its
    decoder does not unfold norms, therefore `folded_norms` does both ways here.

    Args:
        path: The file to write.
        qp: Quantization parameter of weights: the step doubles with every 4.
        use_dq: Dependent quantization: two quantizers that take turns.
        nonweight_qp: The same for biases and norms.

    Attributes:
        summary: Path and encoding time of the bitstream; None before the end of training.

    Raises:
        ModuleNotFoundError: The package is not installed.
        ValueError: `qp` is not a number of the standard's range.
    """

    without_term = "which writes a file of its own, on a grid of its own, after training"

    def __init__(
        self,
        path: str | Path,
        qp: int = -32,
        use_dq: bool = True,
        nonweight_qp: int = -40,
        name: str = "nncodec",
    ) -> None:
        if importlib.util.find_spec("nncodec") is None:
            raise ModuleNotFoundError(
                "`quantization=nncodec` needs the package nncodec, which builds with a C++ "
                "compiler: pip install 'hemp-lightning[nncodec]', or pip install nncodec",
                name="nncodec",
            )
        for argument, value in (("qp", qp), ("nonweight_qp", nonweight_qp)):
            if not -100 <= value <= 0:
                raise ValueError(f"`quantization.{argument}`: expected -100 to 0; found {value}")
        super().__init__(path, coder="nncodec", name=name)
        self.qp = qp
        self.use_dq = use_dq
        self.nonweight_qp = nonweight_qp

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the bitstream, on one process."""
        if not trainer.is_global_zero or self.path is None:
            return
        from nncodec import nnc

        coded, _ = folded_norms(network_of(pl_module))
        # contiguous: the package's C++ code walks the memory
        arrays = {k: np.ascontiguousarray(v.float().cpu().numpy()) for k, v in coded.items()}
        started = time.perf_counter()
        stream: Any = nnc.compress(
            arrays,
            bitstream_path=None,
            qp=self.qp,
            nonweight_qp=self.nonweight_qp,
            use_dq=self.use_dq,
            opt_qp=True,
            lambda_scale=1,
            return_bitstream=True,
        )
        self.path.write_bytes(stream)
        self.summary = Bitstream(self.path, time.perf_counter() - started)

    def load_into(self, network: nn.Module, path: str | Path) -> nn.Module:
        """Decode a bitstream into a network of the same architecture.

        Args:
            network: The network to fill, in place.
            path: The bitstream.

        Returns:
            The same network.
        """
        from nncodec import nnc

        arrays = nnc.decompress(bytearray(Path(path).read_bytes()))
        _, constants = folded_norms(network)
        decoded = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
        network.load_state_dict({**constants, **decoded})
        return network
