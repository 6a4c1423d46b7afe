"""ONNX models: which initializers a file codes. `hemp_reader.converting` writes them back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.file.checkpoints import CheckpointError
from hemp_lightning.file.format.storages import QUANTIZABLE
from hemp_lightning.file.save import save
from hemp_reader.format.names import MAX_NAME
from hemp_reader.onnx_graph import (
    DATA,
    GRAPH,
    KEY,
    PACKED,
    need_onnx,
    nodes_of,
    pack,
    set_place,
    tensors_of,
)
from hemp_reader.summary import Summary

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_WEIGHTS = {  # operators, and which of their inputs are weights
    **dict.fromkeys(_CONVOLUTIONS, (1,)),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "Einsum": (0, 1, 2),
    "Gather": (0,),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), (1, 2)),
    "Attention": (1,),
}
_FLOATS = {  # inputs whose entries may move a little, as biases and norms of any network
    **dict.fromkeys(_CONVOLUTIONS, (2,)),
    "Gemm": (2,),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), (3, 6, 7)),
    "BatchNormalization": (1, 2, 3, 4),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), (1, 2)),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), (1,)),
    "SkipLayerNormalization": (2, 3, 4),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (0, 1)),
    "PRelu": (1,),
}
_PASS_ON = ("Transpose", "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_FEW = 64  # entries, below which a tensor that is held exactly stays in the graph

_DTYPES = {  # numbers of TensorProto.DataType
    1: torch.float32,
    10: torch.float16,
    16: torch.bfloat16,
    11: torch.float64,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    2: torch.uint8,
    9: torch.bool,
    14: torch.complex64,
    15: torch.complex128,
    4: torch.uint16,
    12: torch.uint32,
    13: torch.uint64,
    17: torch.float8_e4m3fn,
    19: torch.float8_e5m2,
}


@dataclass(frozen=True)
class OnnxModel:
    """A model, taken apart for a file.

    Attributes:
        tensors: What the file holds: the packed graph, and the initializers that it codes.
        weights: Names of those that are quantized.
        kernels: Names of those that may have a transform: of convolutions.
        metadata: Metadata of the file.
    """

    tensors: dict[str, Tensor]
    weights: list[str]
    kernels: list[str]
    metadata: dict[str, str]


def save_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    tensors: str | Sequence[str] = "weights",
    transform: str | Mapping[str, str] = "auto",
    **options: Any,
) -> Summary:
    """Write an ONNX model as one `.hemp` file that holds its graph too.

    Args:
        source: The model, see `read_onnx`.
        path: The file to write.
        tensors: See `save`; `weights` are those that nodes use as such.
        transform: See `save`; a word counts for the kernels of convolutions.
        **options: Of `save`.

    Returns:
        The sizes; the graph is the tensor `hemp.onnx.graph`.

    Raises:
        ValueError: As `save` and `read_onnx`.
        CheckpointError: As `read_onnx`.
        OSError: As both.
    """
    model = read_onnx(source)
    return save(
        model.tensors,
        path,
        tensors=model.weights if tensors == "weights" else tensors,
        transform=dict.fromkeys(model.kernels, transform)
        if isinstance(transform, str)
        else transform,
        metadata=model.metadata,
        **options,
    )


def read_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Take an ONNX model apart: its graph, and the initializers that are coded.

    What a node does with an initializer says what it is. Inputs of convolutions, products,
    look-ups and recurrent layers are weights. Biases and what norms and sums take are floats, held
    as `save` holds them. All else is exact: it stays in the graph, or is coded without loss.

    Args:
        path: The model; files of external data lie beside it.

    Raises:
        ValueError: If `onnx` is not installed.
        CheckpointError: If the file is no ONNX model, or its external data are not beside it.
        OSError: If a file cannot be read.
    """
    onnx = need_onnx()
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
        if not model.HasField("graph"):
            raise ValueError("a file without a graph")
        for _, tensor in tensors_of(model):
            _read_outside(tensor, Path(path).parent)
    except OSError:
        raise
    except Exception as error:  # what a broken file makes onnx raise is not documented
        raise CheckpointError(
            f"{os.fspath(path)} must be an ONNX model; found {' '.join(str(error).split())}"
        ) from error
    uses = _uses(model)
    tensors: dict[str, Tensor] = {}
    weights, kernels = [], []
    for name, tensor in tensors_of(model):
        role = _role(name, tensor, uses.get(tensor.name, set()))
        values = _values(tensor) if role and name is not None else None
        if values is None or name is None:
            continue
        tensors[name] = values
        for field in DATA:
            tensor.ClearField(field)
        if role in ("weight", "kernel") and bool(values.isfinite().all()):
            weights.append(name)
            kernels += [name] if role == "kernel" else []
    graph = torch.from_numpy(np.frombuffer(pack(model), np.uint8).copy())
    return OnnxModel({GRAPH: graph, **tensors}, weights, kernels, {KEY: PACKED})


def _read_outside(tensor: onnx.TensorProto, folder: Path) -> None:
    """Bring external data into the tensor; the name of their file stays."""
    if tensor.data_location != tensor.EXTERNAL:
        return
    helper = need_onnx().external_data_helper
    location = helper.ExternalDataInfo(tensor).location
    helper.load_external_data_for_tensor(tensor, os.fspath(folder))
    set_place(tensor, {"location": location})


def _uses(model: onnx.ModelProto) -> dict[str, set[tuple[str, int]]]:
    """Operators and inputs that take each value, also behind what only passes it on."""
    uses: dict[str, set[tuple[str, int]]] = {}
    for node in reversed(list(nodes_of(model))):
        for place, name in enumerate(node.input):
            found = uses.setdefault(name, set())
            if place == 0 and node.op_type in _PASS_ON:
                for output in node.output:
                    found |= uses.get(output, set())
            else:
                found.add((node.op_type, place))
    return uses


def _role(name: str | None, tensor: onnx.TensorProto, uses: set[tuple[str, int]]) -> str:
    """`kernel`, `weight`, `float` or `exact` of what a file codes; empty for what it does not."""
    dtype = _DTYPES.get(tensor.data_type)
    count = int(np.prod(list(tensor.dims), dtype=object))
    if dtype is None or not count or not name or name[0] == "!" or len(name.encode()) > MAX_NAME:
        return ""
    if name == GRAPH:
        return ""
    if dtype in QUANTIZABLE and len(tensor.dims) >= 2:
        if any((operator, 1) in uses for operator in _CONVOLUTIONS):
            return "kernel"
        if any(place in _WEIGHTS.get(operator, ()) for operator, place in uses):
            return "weight"
    if dtype != torch.float32:
        return "exact" if count >= _FEW else ""
    taken = uses and all(place in _FLOATS.get(operator, ()) for operator, place in uses)
    return "float" if taken and count > 1 else ""


def _values(tensor: onnx.TensorProto) -> Tensor | None:
    """The entries of an initializer; None for bools that are neither 0 nor 1."""
    dtype = _DTYPES[tensor.data_type]
    data = tensor.raw_data
    if not data:
        data = need_onnx().numpy_helper.to_array(tensor).tobytes()
    shape = tuple(tensor.dims)
    if len(data) != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise ValueError(
            f"initializer `{tensor.name}` must have {dtype} entries of shape {shape}; found "
            f"{len(data)} bytes"
        )
    if dtype == torch.bool and not set(data) <= {0, 1}:
        return None
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
