"""The context coder: every index is predicted from the ones before it, by mixed adaptive models.

Nothing is sent but the decisions themselves and a few options, so a tensor of ten indices costs
little more than its information. The model learns, while it codes, how often each level occurs
next to which neighbours (in the kernel, in the previous channel, in the previous filter), in which
row and column, at which kernel position and at which place in a tuple. See `mixing_loop` for
the loop and FORMAT.md for the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hemp_lightning.coding.coder import (
    check_indices,
    index_dtype,
    is_trivial,
    tally,
    trivial_indices,
)
from hemp_lightning.coding.context import range_coder as coding
from hemp_lightning.coding.context.counter_loop import code_fast
from hemp_lightning.coding.context.mixing_loop import code_indices
from hemp_lightning.errors import HempFileError
from hemp_lightning.ground.bitstream import Bytes
from hemp_lightning.ground.scan_order import SCANS, scan_axes

_OPTION_ONE = 8192  # of 65,536: an option that is not the usual one costs 3 bits, a usual one 0.2
_SCALE_ONE = 24_576
_MAX_SCALE = 15
_MAX_UNARY = 40  # largest magnitude that may be coded in unary
_SPARSE = 0.1  # mean magnitude
_PIECE = 2**18  # indices
_SMALL = 4096  # up to this size a choice is made by trying
_NO_BYTES = np.zeros(0, np.uint8)
_NO_FLOATS = np.zeros(0, np.float64)


@dataclass(frozen=True)
class Options:
    """What the encoder chose for a tensor; it stands at the front of the payload.

    Attributes:
        plain: All indices are coded as equally likely; the rest is not used.
        scan: Which axis runs fastest.
        half: Differences count from between two levels, `num_levels // 2 - 1` and the next, so
            that there is no difference 0; otherwise from the level `centre`.
        centre: The most frequent level.
        binary: Magnitudes are coded digit by digit; otherwise in unary.
        flags: Each row has a flag that says whether all its differences are 0.
        scale: log2 of the magnitude that counts as large.
    """

    plain: bool = False
    scan: str = SCANS[0]
    half: bool = False
    centre: int = 0
    binary: bool = False
    flags: bool = False
    scale: int = 0

    def sides(self, num_levels: int) -> tuple[int, int]:
        """Largest magnitude below and above the centre."""
        if self.half:
            return num_levels // 2, num_levels - num_levels // 2
        return self.centre, num_levels - 1 - self.centre


class ContextCoder:
    """Adaptive context mixing, the smallest files; the same bytes on every machine.

    Example:
        >>> indices = np.zeros((64, 64), np.uint8)
        >>> indices[5, ::7] = 2
        >>> data = ContextCoder().encode(indices, num_levels=3)
        >>> len(data), bool((ContextCoder().decode(data, (64, 64), 3) == indices).all())
        (9, True)
    """

    name: ClassVar[str] = "context"
    _code: ClassVar[Callable[..., bool]] = staticmethod(code_indices)
    _has_flags: ClassVar[bool] = True

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        """Code `indices`. See `Coder.encode`."""
        indices = check_indices(indices, num_levels)
        if is_trivial(indices.shape, num_levels):
            return b""
        options = _choose(indices, num_levels, self._code, self._has_flags)
        data = encode_with(indices, num_levels, options, self._code)
        if len(data) * 8 > 0.99 * indices.size * math.log2(num_levels):
            plain = encode_with(indices, num_levels, Options(plain=True), self._code)
            data = min(data, plain, key=len)
        return data

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape. See `Coder.decode`."""
        if is_trivial(shape, num_levels):
            return trivial_indices(data, shape, num_levels)
        # the loops take what they could write to
        buffer = np.frombuffer(data if isinstance(data, bytearray) else bytearray(data), np.uint8)
        state = coding.start_decoder(buffer)
        options = _code_options(coding.DECODE, state, buffer, num_levels, len(shape), Options())
        if options.flags and not self._has_flags:
            raise HempFileError(None, 0, "no flags of silent rows", "flags")
        dtype = index_dtype(num_levels)
        if options.plain:
            indices = np.zeros(shape, dtype)
            _code_plain(coding.DECODE, state, buffer, indices.reshape(-1), num_levels)
        else:
            axes = scan_axes(options.scan, len(shape))
            turned = tuple(shape[axis] for axis in axes)
            dims, model = _dims(turned), _model(options, num_levels)
            values = _no_values(dims, model)
            self._code(coding.DECODE, state, buffer, values, _NO_FLOATS, _NO_FLOATS, dims, model)
            found = _indices(values, dims, model).astype(dtype, copy=False)
            indices = found.reshape(turned).transpose(np.argsort(axes))  # not copied: it is large
        if len(data) > int(state[2]):
            raise HempFileError(
                None, int(state[2]), "the end of the payload", f"{len(data) - int(state[2])} bytes"
            )
        if data and data[-1] == 0:
            raise HempFileError(None, len(data) - 1, "a last byte that is not 0", "0")
        return indices

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
        options = _choose(indices, num_levels, self._code, self._has_flags)
        axes = scan_axes(options.scan, indices.ndim)
        turned = indices.transpose(axes)
        dims, model = _dims(turned.shape), _model(options, num_levels)
        cost = np.zeros(indices.size)
        self._code(
            coding.MEASURE, coding.start_encoder(), _NO_BYTES, _values(turned, dims, model), cost,
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
        options = _choose(indices, num_levels, code_indices, False)
        options = replace(options, binary=False)
        axes = scan_axes(options.scan, indices.ndim)
        turned = indices.transpose(axes)
        dims, model = _dims(turned.shape), _model(options, num_levels)
        lengths = np.zeros(indices.size * num_levels)
        code_indices(
            coding.LENGTHS, coding.start_encoder(), _NO_BYTES, _values(turned, dims, model),
            lengths, _log2_table(), dims, model,
        )  # fmt: skip
        lengths = lengths.reshape(*turned.shape, num_levels)
        back = lengths.transpose(*np.argsort(axes), indices.ndim)
        return np.ascontiguousarray(back, np.float32)

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """None: the model is learned while coding."""
        return 0


def _log2_table() -> np.ndarray:
    return np.concatenate([[17.0], 16 - np.log2(np.arange(1, 65537))])


def _dims(shape: tuple[int, ...]) -> np.ndarray:
    """The tensor in scan order as rows, middle, inner, and the length of its last axis."""
    if len(shape) < 2:
        return np.array([1, math.prod(shape), 1, 1], np.int64)
    inner = math.prod(shape[2:])
    return np.array([shape[0], shape[1], inner, shape[-1] if len(shape) > 2 else 1], np.int64)


def _model(options: Options, num_levels: int) -> np.ndarray:
    below, above = options.sides(num_levels)
    flags = [options.half, options.binary, options.flags]
    return np.array([below, above, *flags, options.scale], np.int64)


def _border(dims: np.ndarray) -> int:
    """How far back the contexts of a weight reach, and a little more."""
    _, mid, inner, last = (int(entry) for entry in dims)
    return 2 * mid * inner + last + 8


def _no_values(dims: np.ndarray, model: np.ndarray) -> np.ndarray:
    """What the loops decode into; see `mixing_loop.code_indices`."""
    below, above = int(model[0]), int(model[1])
    size = _border(dims) + math.prod(dims.tolist()[:3])
    return np.full(size, below, np.min_scalar_type(below + above))


def _values(turned: np.ndarray, dims: np.ndarray, model: np.ndarray) -> np.ndarray:
    """What the loops encode, of indices in scan order."""
    values = _no_values(dims, model)
    own = values[_border(dims) :]
    own.reshape(turned.shape)[...] = turned
    if model[2]:  # half: there is no difference 0
        for start in range(0, len(own), _PIECE):
            own[start : start + _PIECE] += own[start : start + _PIECE] >= model[0]
    return values


def _indices(values: np.ndarray, dims: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Indices in scan order of what the loops decoded, which is overwritten."""
    own = values[_border(dims) :]
    if model[2]:
        for start in range(0, len(own), _PIECE):
            own[start : start + _PIECE] -= own[start : start + _PIECE] > model[0]
    return own


def _code_plain(
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
        _code_options(coding.ENCODE, state, buffer, num_levels, indices.ndim, options)
        if options.plain:
            fits = _code_plain(coding.ENCODE, state, buffer, indices.reshape(-1), num_levels)
        else:
            dims, model = _dims(turned.shape), _model(options, num_levels)
            values = _values(turned, dims, model)
            fits = code(coding.ENCODE, state, buffer, values, _NO_FLOATS, _NO_FLOATS, dims, model)
        if fits:
            return coding.finish(state, buffer)
        size *= 2


def _code_options(
    mode: int, state: np.ndarray, buffer: np.ndarray, num_levels: int, ndim: int, options: Options
) -> Options:
    """Write the options, or read them: the ones that were coded."""

    def flag(value: bool, one: int = _OPTION_ONE) -> bool:
        return bool(coding.code_bit(mode, state, buffer, one, int(value)))

    if flag(options.plain):
        return Options(plain=True)
    half = flag(options.half)
    middle = num_levels // 2
    centre = middle if half else options.centre
    if not half:
        if flag(centre != middle):
            coded = np.array([centre], np.int32)
            coding.code_uniform(mode, state, buffer, coded, num_levels)
            centre = int(coded[0])
        else:
            centre = middle
    found = Options(half=half, centre=centre)
    binary = max(found.sides(num_levels)) > _MAX_UNARY or flag(options.binary)
    flags = not half and flag(options.flags)
    scan = SCANS.index(options.scan) if ndim >= 2 else 0
    if ndim >= 2:
        scan = 2 * flag(bool(scan & 2)) + flag(bool(scan & 1))
    scale = 0
    while scale < _MAX_SCALE and flag(scale < options.scale, _SCALE_ONE):
        scale += 1
    return Options(False, SCANS[scan], half, centre, binary, flags, scale)


def _choose(
    indices: np.ndarray,
    num_levels: int,
    code: Callable[..., bool] = code_indices,
    has_flags: bool = True,
) -> Options:
    """Options by the statistics of the indices; the scan by coding a part in each."""
    counts = tally(indices, num_levels)
    centre = int(counts.argmax())
    if counts[num_levels // 2] == counts[centre]:
        centre = num_levels // 2
    options = Options(half=_has_no_centre(counts), centre=centre)
    below, above = options.sides(num_levels)
    positions = np.arange(num_levels)
    mean = float((counts * np.abs(positions - centre)).sum()) / indices.size
    options = replace(
        options,
        binary=max(below, above) > _MAX_UNARY or mean > 3,
        scale=min(max(math.frexp(mean / 2)[1], 0), _MAX_SCALE),
    )
    if indices.ndim < 2:
        return options
    part = _part(indices, mean)
    trial = code if mean < _SPARSE else code_fast  # which ranks the scans of dense tensors as well
    sizes = {}
    for scan in _scans(indices.ndim, mean):
        sizes[scan] = len(encode_with(part, num_levels, replace(options, scan=scan), trial))
    options = replace(options, scan=min(sizes, key=lambda scan: sizes[scan]))
    if options.half or not has_flags or _silent_rows(indices, options) < 0.05:
        return options
    flags = replace(options, flags=True)
    if indices.size > _SMALL:
        return flags
    return min(options, flags, key=lambda choice: len(encode_with(indices, num_levels, choice)))


def _has_no_centre(counts: np.ndarray) -> bool:
    """Whether the indices peak, evenly, at the two middle levels."""
    middle = len(counts) // 2
    if len(counts) < 4:
        return False
    lower, upper = int(counts[middle - 1]), int(counts[middle])
    beside = int(counts[middle - 2] + counts[middle + 1])
    below = int(counts[:middle].sum()) / int(counts.sum())
    even = 4 * lower < 5 * upper and 4 * upper < 5 * lower and 0.45 < below < 0.55
    return even and 5 * (lower + upper) > 6 * beside


def _scans(ndim: int, mean: float) -> tuple[str, ...]:
    """The scans that are worth a trial; sparse tensors are quick to code and gain the most."""
    if ndim == 2:
        return "row_major", "output"
    return SCANS if mean < _SPARSE else ("row_major", "kernel")


def _silent_rows(indices: np.ndarray, options: Options) -> float:
    turned = indices.transpose(scan_axes(options.scan, indices.ndim))
    return float((turned.reshape(len(turned), -1) == options.centre).all(1).mean())


def _part(indices: np.ndarray, mean: float) -> np.ndarray:
    """A corner of the tensor, large enough to compare scans on."""
    wanted = max(indices.size // (4 if mean < _SPARSE else 8), 4096)
    share = math.sqrt(min(wanted / indices.size, 1.0))
    rows = max(math.ceil(indices.shape[0] * share), min(indices.shape[0], 8))
    columns = max(math.ceil(indices.shape[1] * share), min(indices.shape[1], 8))
    return indices[:rows, :columns]
