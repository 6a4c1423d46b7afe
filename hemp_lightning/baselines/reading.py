"""Reading back whatever file a method wrote."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from hemp_lightning.container import load_into


def decode_into(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill a network from the file that a method of the suite wrote.

    Args:
        network: A network with the keys and shapes of the one that was written.
        path: A `.hemp` file, or a `.nnc` file of the NNCodec baseline.

    Returns:
        The same network.
    """
    if Path(path).suffix == ".nnc":
        from hemp_lightning.baselines.nncodec import read_nnc

        network.load_state_dict(read_nnc(path, network.state_dict()))
        return network
    return load_into(network, path)
