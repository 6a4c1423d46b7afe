"""The context coder: every index is predicted from the ones before it, by mixed adaptive models.

Nothing is sent but the decisions themselves and a few options, so a tensor of ten indices costs
little more than its information. The model learns, while it codes, how often each level occurs
next to which neighbours (in the kernel, in the previous channel, in the previous filter), in which
row and column, at which kernel position and at which place in a tuple. See `mixing_loop` for
the loop and FORMAT.md for the bytes.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hemp_lightning.coding.coder import check_indices
from hemp_lightning.coding.context.choice import choose
from hemp_lightning.coding.context.payload import NO_BYTES, encode_with, values_of
from hemp_reader.coding.context import range_coder as coding
from hemp_reader.coding.context.decoder import ContextDecoder
from hemp_reader.coding.context.mixing_loop import code_indices
from hemp_reader.coding.context.options import Options
from hemp_reader.coding.context.payload import dims_of, indices_of, model_of
from hemp_reader.coding.indices import is_trivial
from hemp_reader.scan_order import scan_axes


class ContextCoder(ContextDecoder):
    """Adaptive context mixing, the smallest files; the same bytes on every machine.

    Example:
        >>> indices = np.zeros((64, 64), np.uint8)
        >>> indices[5, ::7] = 2
        >>> data = ContextCoder().encode(indices, num_levels=3)
        >>> len(data), bool((ContextCoder().decode(data, (64, 64), 3) == indices).all())
        (9, True)
    """

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        """Code `indices`. See `Coder.encode`."""
        indices = check_indices(indices, num_levels)
        if is_trivial(indices.shape, num_levels):
            return b""
        options = self._choose(indices, num_levels, self._has_flags)
        data = encode_with(indices, num_levels, options, self._code)
        if len(data) * 8 > 0.99 * indices.size * math.log2(num_levels):
            plain = encode_with(indices, num_levels, Options(plain=True), self._code)
            data = min(data, plain, key=len)
        return data

    def rate(self, indices: np.ndarray, num_levels: int) -> np.ndarray:
        """Code length of each index under the model, as `encode` would spend it.

        Args:
            indices: Integers in `[0, num_levels)`, any shape.
            num_levels: From 1 to 65,536.

        Returns:
            Bits of each index, float64, shape of `indices`. Their sum is within a few bytes of
            the payload's size (the options and the last byte are not in it).

        Example:
            >>> float(ContextCoder().rate(np.zeros((10, 10), int), num_levels=2).sum()) < 8
            True
        """
        indices = check_indices(indices, num_levels)
        if is_trivial(indices.shape, num_levels):
            return np.zeros(indices.shape)
        options = self._choose(indices, num_levels, self._has_flags)
        axes = scan_axes(options.scan, indices.ndim)
        turned = indices.transpose(axes)
        dims, model = dims_of(turned.shape), model_of(options, num_levels)
        cost = np.zeros(indices.size)
        self._code(
            coding.MEASURE, coding.start_encoder(), NO_BYTES, values_of(turned, dims, model), cost,
            _log2_table(), dims, model,
        )  # fmt: skip
        return cost.reshape(turned.shape).transpose(np.argsort(axes))

    def lengths(self, indices: np.ndarray, num_levels: int) -> np.ndarray:
        """Code length that each level would have in the place of each index.

        Every index is predicted from the true ones before it; what another level would do to the
        contexts of those after it is not counted. Magnitudes are taken as unary and rows have no
        flags, so lengths of the true levels can differ a little from `rate`.

        Args:
            indices: Integers in `[0, num_levels)`, any shape.
            num_levels: From 1 to 256.

        Returns:
            Bits, float32, shape of `indices` and a last axis of `num_levels`.

        Raises:
            ValueError: If `num_levels` is more than 256.

        Example:
            >>> lengths = ContextCoder().lengths(np.zeros((50, 50), int), num_levels=3)
            >>> lengths.shape, bool(lengths[-1, -1, 0] < 0.01), bool(lengths[-1, -1, 2] > 8)
            ((50, 50, 3), True, True)
        """
        indices = check_indices(indices, num_levels)
        if num_levels > 256:
            raise ValueError(f"`num_levels` must be at most 256 for lengths; found {num_levels}")
        if is_trivial(indices.shape, num_levels):
            return np.zeros((*indices.shape, num_levels), np.float32)
        options = replace(self._choose(indices, num_levels, False), binary=False)
        axes = scan_axes(options.scan, indices.ndim)
        turned = indices.transpose(axes)
        dims, model = dims_of(turned.shape), model_of(options, num_levels)
        lengths = np.zeros(indices.size * num_levels)
        code_indices(
            coding.LENGTHS, coding.start_encoder(), NO_BYTES, values_of(turned, dims, model),
            lengths, _log2_table(), dims, model,
        )  # fmt: skip
        lengths = lengths.reshape(*turned.shape, num_levels)
        back = lengths.transpose(*np.argsort(axes), indices.ndim)
        return np.ascontiguousarray(back, np.float32)

    def priced(
        self, indices: np.ndarray, weights: np.ndarray, levels: np.ndarray, price: float
    ) -> np.ndarray:
        """Indices of least `(weight - level)^2 + price * length`, chosen one after the other.

        Lengths are those that the levels have where they stand, given the indices chosen before.
        For each weight its level, the ones beside it and the most frequent one are weighed.

        Args:
            indices: Of the nearest levels, any shape.
            weights: Of that shape.
            levels: float32 `(num_levels,)`, strictly ascending, at most 256.
            price: Of a bit, above 0, in squares of the unit of the weights.

        Returns:
            Of the shape and dtype of indices.

        Raises:
            ValueError: If there are more than 256 levels.

        Example:
            >>> weights = np.array([0.0] * 99 + [0.6])
            >>> chosen = ContextCoder().priced(weights.round().astype(int), weights, [0, 1], 0.1)
            >>> int(chosen[-1])
            0
        """
        num_levels = len(levels)
        indices = check_indices(indices, num_levels)
        if num_levels > 256:
            raise ValueError(f"`levels` must be at most 256; found {num_levels}")
        if is_trivial(indices.shape, num_levels):
            return indices
        options = replace(self._choose(indices, num_levels, False), binary=False)
        axes = scan_axes(options.scan, indices.ndim)
        turned = indices.transpose(axes)
        dims, model = dims_of(turned.shape), model_of(options, num_levels)
        values = values_of(turned, dims, model)
        scaled = np.concatenate([weights.transpose(axes).reshape(-1), levels], dtype=np.float64)
        scaled /= math.sqrt(price)
        code_indices(
            coding.PRICED, coding.start_encoder(), NO_BYTES, values, scaled, _log2_table(), dims,
            model,
        )  # fmt: skip
        found = indices_of(values, dims, model).astype(indices.dtype, copy=False)
        return found.reshape(turned.shape).transpose(np.argsort(axes))

    def _choose(self, indices: np.ndarray, num_levels: int, has_flags: bool) -> Options:
        return choose(indices, num_levels, self._code, has_flags, self._has_frequencies)


def _log2_table() -> np.ndarray:
    return np.concatenate([[17.0], 16 - np.log2(np.arange(1, 65537))])
