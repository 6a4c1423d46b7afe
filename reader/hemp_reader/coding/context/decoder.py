"""Decoding what the context coders wrote; FORMAT.md, "Coder 2: context", has the bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.coding.context import plain
from hemp_reader.coding.context.options import Options, code_options
from hemp_reader.coding.indices import index_dtype, is_trivial, trivial_indices
from hemp_reader.errors import HempFileError
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
    _plain: ClassVar[Callable[..., np.ndarray]] = staticmethod(plain.decode_mixed)
    _has_flags: ClassVar[bool] = True

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape. See `Decoder.decode`."""
        if is_trivial(shape, num_levels):
            return trivial_indices(data, shape, num_levels)
        bits = plain.RangeDecoder(data)
        options = code_options(bits, num_levels, len(shape))
        self.check(options)
        dtype = index_dtype(num_levels)
        if options.plain:
            size = math.prod(shape)
            indices = np.fromiter((bits.uniform(num_levels) for _ in range(size)), dtype, size)
            indices = indices.reshape(shape)
        else:
            axes = scan_axes(options.scan, len(shape))
            turned = tuple(shape[axis] for axis in axes)
            dims, model = dims_of(turned), model_of(options, num_levels)
            differences = self._plain(bits, dims, model)
            indices = _indices_of(differences, options, num_levels)
            indices = indices.reshape(turned).transpose(np.argsort(axes))
        check_end(data, bits.position)
        return indices

    def check(self, options: Options) -> None:
        """Refuse options that the coder has not.

        Raises:
            HempFileError: If there are such.
        """
        if options.flags and not self._has_flags:
            raise HempFileError(None, 0, "no flags of silent rows", "flags")

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """None: the model is learned while coding."""
        return 0


class FastDecoder(ContextDecoder):
    """Decodes adaptive contexts without mixing."""

    name: ClassVar[str] = "fast"
    _plain = staticmethod(plain.decode_fast)
    _has_flags = False


def check_end(data: Bytes, position: int) -> None:
    """Refuse a payload that goes on where it was read to its end, or ends in a byte 0.

    Raises:
        HempFileError: If it does.
    """
    if len(data) > position:
        raise HempFileError(
            None, position, "the end of the payload", f"{len(data) - position} bytes"
        )
    if data and data[-1] == 0:
        raise HempFileError(None, len(data) - 1, "a last byte that is not 0", "0")


def dims_of(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The tensor in scan order as rows, middle, inner, and the length of its last axis.

    Example:
        >>> dims_of((8, 4, 3, 3)), dims_of((5,))
        ((8, 4, 9, 3), (1, 5, 1, 1))
    """
    if len(shape) < 2:
        return 1, math.prod(shape), 1, 1
    return shape[0], shape[1], math.prod(shape[2:]), shape[-1] if len(shape) > 2 else 1


def model_of(options: Options, num_levels: int) -> tuple[int, ...]:
    """What the loops take of the options; see `mixing_loop.code_indices`."""
    below, above = options.sides(num_levels)
    return below, above, int(options.half), int(options.binary), int(options.flags), options.scale


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
