"""A payload with given options."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hemp_reader.coding.context import range_coder as coding
from hemp_reader.coding.context.mixing_loop import code_indices
from hemp_reader.coding.context.options import Options, code_options
from hemp_reader.coding.context.payload import (
    NO_FLOATS,
    border,
    code_plain,
    dims_of,
    model_of,
    no_values,
)
from hemp_reader.scan_order import scan_axes

_PIECE = 2**18  # indices
NO_BYTES = np.zeros(0, np.uint8)


def encode_with(
    indices: np.ndarray,
    num_levels: int,
    options: Options,
    code: Callable[..., bool] = code_indices,
) -> bytes:
    """The payload with these options, by the loop `code`."""
    turned = indices.transpose(scan_axes(options.scan, indices.ndim))
    size = 8192 + indices.size * num_levels.bit_length() // 8
    while True:
        buffer = np.zeros(size, np.uint8)
        state = coding.start_encoder()
        steps = coding.Steps(coding.ENCODE, state, buffer)
        code_options(steps, num_levels, indices.ndim, options)
        if options.plain:
            fits = code_plain(coding.ENCODE, state, buffer, indices.reshape(-1), num_levels)
        else:
            dims, model = dims_of(turned.shape), model_of(options, num_levels)
            values = values_of(turned, dims, model)
            fits = code(coding.ENCODE, state, buffer, values, NO_FLOATS, NO_FLOATS, dims, model)
        if fits:
            return coding.finish(state, buffer)
        size *= 2


def values_of(turned: np.ndarray, dims: np.ndarray, model: np.ndarray) -> np.ndarray:
    """What the loops encode, of indices in scan order."""
    values = no_values(dims, model)
    own = values[border(dims) :]
    own.reshape(turned.shape)[...] = turned
    if model[2]:  # half: there is no difference 0
        for start in range(0, len(own), _PIECE):
            own[start : start + _PIECE] += own[start : start + _PIECE] >= model[0]
    return values
