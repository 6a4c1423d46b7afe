"""Decoding what the context coders wrote; FORMAT.md, "Coder 2: context", has the bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.coding.context import payload, plain
from hemp_reader.coding.context import range_coder as coding
from hemp_reader.coding.context.counter_loop import code_fast
from hemp_reader.coding.context.mixing_loop import code_indices
from hemp_reader.coding.context.options import Decisions, Options, code_options
from hemp_reader.coding.indices import index_dtype, is_trivial, trivial_indices
from hemp_reader.errors import HempFileError
from hemp_reader.numba_tools import IS_COMPILED
from hemp_reader.scan_order import scan_axes

_PIECE = 2**18  # indices


class ContextDecoder:
    r"""Decodes adaptive context mixing, the same indices on every machine.

    Example:
        >>> ContextDecoder().decode(b"/\x8c", (2, 3), num_levels=3)
        array([[0, 1, 1],
               [1, 1, 2]], dtype=uint8)
    """

    name: ClassVar[str] = "context"
    _code: ClassVar[Callable[..., bool]] = staticmethod(code_indices)
    _plain: ClassVar[Callable[..., np.ndarray]] = staticmethod(plain.decode_mixed)
    _has_flags: ClassVar[bool] = True
    _has_frequencies: ClassVar[bool] = False

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape. See `Decoder.decode`."""
        if is_trivial(shape, num_levels):
            return trivial_indices(data, shape, num_levels)
        decode = self._decode_compiled if IS_COMPILED else self._decode_plainly
        indices, position = decode(data, shape, num_levels)
        if len(data) > position:
            raise HempFileError(
                None, position, "the end of the payload", f"{len(data) - position} bytes"
            )
        if data and data[-1] == 0:
            raise HempFileError(None, len(data) - 1, "a last byte that is not 0", "0")
        return indices

    def _options(self, decisions: Decisions, num_levels: int, ndim: int) -> Options:
        options = Options(frequencies=self._has_frequencies)
        options = code_options(decisions, num_levels, ndim, options)
        if options.flags and not self._has_flags:
            raise HempFileError(None, 0, "no flags of silent rows", "flags")
        return options

    def _decode_compiled(
        self, data: Bytes, shape: tuple[int, ...], num_levels: int
    ) -> tuple[np.ndarray, int]:
        """Indices, and how many bytes were read for them."""
        # the loops take what they could write to
        buffer = np.frombuffer(data if isinstance(data, bytearray) else bytearray(data), np.uint8)
        state = coding.start_decoder(buffer)
        steps = coding.Steps(coding.DECODE, state, buffer)
        options = self._options(steps, num_levels, len(shape))
        dtype = index_dtype(num_levels)
        if options.plain:
            indices = np.zeros(shape, dtype)
            payload.code_plain(coding.DECODE, state, buffer, indices.reshape(-1), num_levels)
            return indices, int(state[2])
        axes = scan_axes(options.scan, len(shape))
        turned = tuple(shape[axis] for axis in axes)
        dims, model = payload.dims_of(turned), payload.model_of(options, num_levels)
        values = payload.no_values(dims, model)
        none = payload.NO_FLOATS
        self._code(coding.DECODE, state, buffer, values, none, none, dims, model)
        found = payload.indices_of(values, dims, model).astype(dtype, copy=False)
        # not copied: it is large
        return found.reshape(turned).transpose(np.argsort(axes)), int(state[2])

    def _decode_plainly(
        self, data: Bytes, shape: tuple[int, ...], num_levels: int
    ) -> tuple[np.ndarray, int]:
        """As `_decode_compiled`, without a compiler."""
        bits = plain.RangeDecoder(data)
        options = self._options(bits, num_levels, len(shape))
        if options.plain:
            size = math.prod(shape)
            drawn = (bits.uniform(num_levels) for _ in range(size))
            return np.fromiter(drawn, index_dtype(num_levels), size).reshape(shape), bits.position
        axes = scan_axes(options.scan, len(shape))
        turned = tuple(shape[axis] for axis in axes)
        dims, model = payload.dims_of(turned), payload.model_of(options, num_levels)
        differences = self._plain(bits, tuple(dims.tolist()), tuple(model.tolist()))
        indices = _indices_of(differences, options, num_levels)
        return indices.reshape(turned).transpose(np.argsort(axes)), bits.position

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """None: the model is learned while coding."""
        return 0


class FastDecoder(ContextDecoder):
    """Decodes adaptive contexts without mixing."""

    name: ClassVar[str] = "fast"
    _code = staticmethod(code_fast)
    _plain = staticmethod(plain.decode_fast)
    _has_flags = False


class FrequencyDecoder(ContextDecoder):
    """Decodes adaptive context mixing of kernels whose places are frequencies."""

    name: ClassVar[str] = "frequency"
    _has_frequencies = True


def _indices_of(differences: np.ndarray, options: Options, num_levels: int) -> np.ndarray:
    """Indices in scan order, piece by piece."""
    indices = np.empty(len(differences), index_dtype(num_levels))
    below = options.sides(num_levels)[0]
    for start in range(0, len(indices), _PIECE):
        part = differences[start : start + _PIECE]
        if options.half:
            part = part - (part > 0)
        indices[start : start + _PIECE] = part + below
    return indices
