"""The coder of n-tuples: its model is the joint table that the entropy term counts.

The indices, in a named scan order, are cut into `T = P // n` tuples. The distinct tuples and how
often each occurs go ahead as a table of integers; the tuples follow, coded with just these
frequencies, so that they cost `T * H_n` bits: what training with the entropy term of order `n`
makes small. Tuples too rare to be worth an entry are spelled out level by level instead.

FORMAT.md, "Payload of the coder of tuples", is the specification.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from hemp_lightning.coding.coder import (
    check_indices,
    gather,
    index_dtype,
    is_trivial,
    trivial_indices,
)
from hemp_lightning.coding.tuples.ans_stream import POPPED, Decoder, Encoder, model_of
from hemp_lightning.coding.tuples.count_table import CountTable
from hemp_lightning.coding.tuples.counting import (
    MAX_CELLS,
    check_order,
    count_tuples,
    least_bits,
    unpacked,
)
from hemp_lightning.coding.tuples.listing import choose_listed
from hemp_reader.bitstream import ByteReader, Bytes, pack_bits, unpack_bits, varint
from hemp_reader.errors import HempFileError
from hemp_reader.scan_order import SCANS, check_scan, scan_axes

_PIECE = 2**18  # tuples that are coded at a time


class TuplesCoder:
    """Codes tuples of `order` indices with their empirical joint distribution.

    Args:
        order: Length of the tuples, at least 1.
        scan: The order in which the tensor is cut into tuples, one of `SCANS`.

    Raises:
        TypeError: If `order` is no integer.
        ValueError: If `order` or `scan` is not as said.

    Example:
        >>> indices = np.tile(np.array([0, 0, 0, 3]), 1000)
        >>> coder = TuplesCoder(order=2)
        >>> data = coder.encode(indices, num_levels=4)
        >>> len(data)  # 2000 tuples with an entropy of one bit each are 250 bytes
        259
        >>> bool((coder.decode(data, (4000,), num_levels=4) == indices).all())
        True
    """

    name: ClassVar[str] = "tuples"

    def __init__(self, order: int = 2, scan: str = "row_major") -> None:
        check_order(order)
        self.order = order
        self.scan = check_scan(scan)

    def takes(self, num_levels: int) -> bool:
        """Whether `encode` takes that many levels: no more than 2^62 different tuples.

        Example:
            >>> TuplesCoder(order=16).takes(14), TuplesCoder(order=16).takes(15)
            (True, False)
        """
        return self.order <= _max_order(num_levels)

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        """Code `indices`. See `Coder.encode`.

        Raises:
            ValueError: Also if more than 2^62 different tuples are possible.
        """
        indices = check_indices(indices, num_levels)
        if is_trivial(indices.shape, num_levels):
            return b""
        tuples, left_over = self._cut(indices, num_levels)
        head = varint((self.order - 1) * len(SCANS) + SCANS.index(self.scan))
        return head + _pack_plain(left_over, num_levels) + _encode_tuples(tuples, num_levels)

    def least_bytes(self, indices: np.ndarray, num_levels: int) -> int:
        """A size that no payload of these indices falls below, in a tenth of the time of coding.

        Any code with one fixed model for all tuples takes at least `T * H_n` bits.

        Raises:
            ValueError: As `encode`.

        Example:
            >>> indices = np.tile(np.array([0, 0, 0, 3]), 1000)
            >>> TuplesCoder(order=2).least_bytes(indices, num_levels=4)
            250
        """
        tuples = self._cut(check_indices(indices, num_levels), num_levels)[0]
        return math.floor(least_bits(tuples, num_levels) / 8)

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape, whatever the options of this coder. See `Coder.decode`."""
        if is_trivial(shape, num_levels):
            return trivial_indices(data, shape, num_levels)
        scanned, scan = _decode(data, math.prod(shape), num_levels)[:2]
        axes = scan_axes(scan, len(shape))
        indices = scanned.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
        return np.ascontiguousarray(indices).reshape(shape)

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """Bytes that name tuples, and not say which of them comes when.

        A rare tuple that is spelled out counts here with what it costs beyond `log2(T / count)`
        bits, the price of a listed one.
        """
        if is_trivial(shape, num_levels):
            return 0
        _, _, tuples, escaped, bits = _decode(data, math.prod(shape), num_levels)
        bits += least_bits(tuples, num_levels, escaped)
        return max(len(data) - math.ceil(bits / 8), 0)

    def _cut(self, indices: np.ndarray, num_levels: int) -> tuple[np.ndarray, np.ndarray]:
        """Tuples `(T, n)`, and the indices that are left over."""
        if not self.takes(num_levels):
            raise ValueError(
                f"`order` must be at most {_max_order(num_levels)} with {num_levels} levels, for "
                f"no more than 2^62 different tuples; found {self.order}"
            )
        scanned = indices.transpose(scan_axes(self.scan, indices.ndim)).reshape(-1)
        whole = scanned.size - scanned.size % self.order
        return scanned[:whole].reshape(-1, self.order), scanned[whole:]


def _max_order(num_levels: int) -> int:
    """The longest tuples that can be numbered up to 2^62."""
    order = 1
    while num_levels ** (order + 1) <= MAX_CELLS:
        order += 1
    return order


def _encode_tuples(tuples: np.ndarray, num_levels: int) -> bytes:
    """Tables and coded tuples, for `tuples` of shape `(T, n)`."""
    if not len(tuples):
        return b""
    order = tuples.shape[1]
    cells, counts, ranks_of = count_tuples(tuples, num_levels)
    listed, tables = choose_listed(cells, counts, order, num_levels)
    table = tables[0]
    symbols = np.where(listed, np.cumsum(listed) - (not table.has_escape), 0).astype(np.int32)
    coder = Encoder()
    pieces = [slice(start, start + _PIECE) for start in range(0, len(tuples), _PIECE)][::-1]
    if table.has_escape:
        model = model_of(tables[1])
        symbol_of = np.zeros(num_levels, np.int32)
        symbol_of[tables[1].cells] = np.arange(len(tables[1].cells))
        for these in pieces:
            spelled = tuples[these][~listed[ranks_of(these)]]
            coder.push(gather(symbol_of, spelled.reshape(-1)), model)
    model = model_of(table)
    for these in pieces:
        coder.push(gather(symbols, ranks_of(these)), model)
    return b"".join(part.to_bytes() for part in tables) + coder.to_bytes()


def _decode(
    data: Bytes, size: int, num_levels: int
) -> tuple[np.ndarray, str, np.ndarray, np.ndarray, float]:
    """Decode a payload that is not trivial.

    Returns:
        `size` indices in scan order, and the scan; of them the tuples, `(T, n)`; which of these
        are not listed, as bits; the bits that say which listed tuple comes when.
    """
    reader = ByteReader(data)
    options = reader.varint("order and scan", _max_order(num_levels) * len(SCANS) - 1)
    order, scan = options // len(SCANS) + 1, SCANS[options % len(SCANS)]
    whole = size - size % order
    left_over = _unpack_plain(reader, size - whole, num_levels)
    scanned = np.empty(size, index_dtype(num_levels))
    scanned[whole:] = left_over
    tuples = scanned[:whole].reshape(-1, order)
    escaped = np.zeros(-(-len(tuples) // 8), np.uint8)
    bits = _decode_tuples(reader, tuples, escaped, num_levels) if whole else 0.0
    reader.end("the payload")
    return scanned, scan, tuples, escaped, bits


def _decode_tuples(
    reader: ByteReader, tuples: np.ndarray, escaped: np.ndarray, num_levels: int
) -> float:
    """Fill `tuples`, at least one, and `escaped`; returns the bits that `_decode` does."""
    size, order = tuples.shape
    table = CountTable.read(reader, num_levels**order, size)
    levels = CountTable.read(reader, num_levels, size * order) if table.has_escape else None
    if levels is not None and levels.has_escape:
        raise HempFileError(None, reader.offset, "a table of levels without escape", "one with it")
    start, stored = reader.offset, np.frombuffer(reader.view(reader.left, "words"), np.uint8)
    if len(stored) and stored[-1] == 0:
        raise HempFileError(None, len(reader.data) - 1, "a last byte other than 0", "0")
    coder = Decoder(stored)
    # One row for each symbol; that of the escape does not matter.
    entries = np.zeros((len(table.cells) + table.has_escape, order), tuples.dtype)
    for place in range(order):
        column = table.cells // num_levels ** (order - 1 - place) % num_levels
        entries[len(entries) - len(column) :, place] = column
    model = model_of(table)
    pieces = [slice(begin, begin + POPPED) for begin in range(0, size, POPPED)]
    for these in pieces:
        symbols = coder.pop(len(tuples[these]), model)
        tuples[these] = entries[symbols]
        if table.has_escape:
            bits_of = np.packbits(symbols == 0)
            escaped[these.start // 8 :][: len(bits_of)] = bits_of
    bits = 8.0 * len(stored) - coder.bits_left()
    if levels is not None:
        model = model_of(levels)
        for these in pieces:
            rare = unpacked(escaped, these.start, len(tuples[these]))
            symbols = coder.pop(np.count_nonzero(rare) * order, model)
            tuples[these][rare] = levels.cells[symbols].reshape(-1, order)
    if not coder.is_empty():
        raise HempFileError(None, start, "coded tuples that end with the payload", "more of them")
    return bits


def _width(num_levels: int) -> int:
    """Bits of an index by itself."""
    return (num_levels - 1).bit_length()


def _pack_plain(indices: np.ndarray, num_levels: int) -> bytes:
    """A few indices with `_width` bits each."""
    widths = np.full(len(indices), _width(num_levels))
    return np.packbits(pack_bits(indices.astype(np.int64), widths), bitorder="little").tobytes()


def _unpack_plain(reader: ByteReader, size: int, num_levels: int) -> np.ndarray:
    """What `_pack_plain` wrote, int64 `(size,)`."""
    width = _width(num_levels)
    offset = reader.offset
    data = np.frombuffer(reader.take(-(-size * width // 8), "left-over indices"), np.uint8)
    bits = np.unpackbits(data, bitorder="little")
    indices = unpack_bits(bits[: size * width], np.full(size, width))
    if bits[size * width :].any() or (size and int(indices.max()) >= num_levels):
        raise HempFileError(None, offset, f"left-over indices below {num_levels}", "others")
    return indices
