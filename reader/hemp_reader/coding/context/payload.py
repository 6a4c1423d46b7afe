"""Between indices and what the compiled loops take."""

from __future__ import annotations

import math

import numpy as np

from hemp_reader.coding.context import range_coder as coding
from hemp_reader.coding.context.options import Options

_PIECE = 2**18  # indices
NO_FLOATS = np.zeros(0, np.float64)


def code_plain(
    mode: int, state: np.ndarray, buffer: np.ndarray, values: np.ndarray, num_levels: int
) -> bool:
    """`code_uniform` in pieces, whose indices take four bytes each."""
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE].astype(np.int32)
        if not coding.code_uniform(mode, state, buffer, piece, num_levels):
            return False
        if mode == coding.DECODE:
            values[start : start + _PIECE] = piece
    return True


def dims_of(shape: tuple[int, ...]) -> np.ndarray:
    """The tensor in scan order as rows, middle, inner, and the length of its last axis."""
    if len(shape) < 2:
        return np.array([1, math.prod(shape), 1, 1], np.int64)
    inner = math.prod(shape[2:])
    return np.array([shape[0], shape[1], inner, shape[-1] if len(shape) > 2 else 1], np.int64)


def model_of(options: Options, num_levels: int) -> np.ndarray:
    """What the loops take of the options; see `mixing_loop.code_indices`."""
    below, above = options.sides(num_levels)
    flags = [options.half, options.binary, options.flags]
    return np.array([below, above, *flags, options.scale, options.frequencies], np.int64)


def border(dims: np.ndarray) -> int:
    """How far back the contexts of a weight reach, and a little more."""
    _, mid, inner, last = (int(entry) for entry in dims)
    return 2 * mid * inner + last + 8


def no_values(dims: np.ndarray, model: np.ndarray) -> np.ndarray:
    """What the loops decode into; see `mixing_loop.code_indices`."""
    below, above = int(model[0]), int(model[1])
    size = border(dims) + math.prod(dims.tolist()[:3])
    return np.full(size, below, np.min_scalar_type(below + above))


def indices_of(values: np.ndarray, dims: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Indices in scan order of what the loops decoded, which is overwritten."""
    own = values[border(dims) :]
    if model[2]:
        for start in range(0, len(own), _PIECE):
            own[start : start + _PIECE] -= own[start : start + _PIECE] > model[0]
    return own
