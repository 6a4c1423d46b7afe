"""`hemp export`: a network, with the weights of a file, as an ONNX model."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from hemp_lightning.suite.compress_command import read_network
from hemp_reader.replacing import replacing

_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool")


def export(
    file: str,
    model: str,
    shapes: Sequence[str],
    output: str | os.PathLike[str],
    *,
    opset: int | None = None,
) -> int:
    """Write the ONNX model of a network whose weights are in a `.hemp` file.

    Args:
        file: The `.hemp` file.
        model: `package.module:build`, or a name of the zoo.
        shapes: One word for each input, see `example_input`. The model takes these shapes.
        output: The `.onnx` file.
        opset: Version of ONNX's operators; None for the one that PyTorch prefers.

    Returns:
        Bytes of the model.

    Raises:
        HempFileError: If the file is broken.
        ValueError: If packages are missing, the file does not fit the network, or PyTorch cannot
            export it.
        OSError: If a file cannot be read or written.
    """
    if not os.fspath(output).lower().endswith(".onnx"):
        raise ValueError(f"--output must end in .onnx; found {os.fspath(output)}")
    inputs = tuple(example_input(words) for words in shapes)
    network = read_network(model, file, None).eval()
    with replacing(output) as temporary:
        try:
            torch.onnx.export(
                network,
                inputs,
                os.fspath(temporary),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                verbose=False,
            )
        except ModuleNotFoundError as error:
            raise ValueError(
                f"`hemp export` needs the package {error.name!r}; install hemp-lightning[onnx]"
            ) from None
        except Exception as error:  # of the network's own code, and of many passes over it
            raise ValueError(
                f"--model must be a network that torch.onnx.export takes, with --inputs that fit; "
                f"found {type(error).__name__}: {error}"
            ) from error
    return os.path.getsize(output)


def example_input(words: str) -> Tensor:
    """An input of the shape, and the dtype, that a word says.

    Args:
        words: Such as `1x3x32x32`, or `1x12:int64`; without a dtype it is float32.

    Raises:
        ValueError: If it is no shape, or another dtype.

    Example:
        >>> example_input("1x3x8x8").shape, example_input("2x5:int64").dtype
        (torch.Size([1, 3, 8, 8]), torch.int64)
    """
    found = re.fullmatch(r"([1-9]\d*(?:x[1-9]\d*)*)(?::(\w+))?", words)
    dtype = (found[2] or "float32") if found else ""
    if not found or dtype not in _DTYPES:
        raise ValueError(
            f"--inputs must be shapes such as 1x3x32x32 or 1x12:int64, with one of "
            f"{', '.join(_DTYPES)}; found {words!r}"
        )
    shape = [int(extent) for extent in found[1].split("x")]
    if dtype.startswith(("float", "bfloat")):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    return torch.zeros(shape, dtype=getattr(torch, dtype))
