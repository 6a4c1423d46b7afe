"""Decoding tuples: the indices of a tensor, cut into tuples in a named scan order.

FORMAT.md, "Coder 1: tuples", is the specification.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from hemp_reader.bitstream import ByteReader, Bytes, unpack_bits
from hemp_reader.coding.indices import index_dtype, is_trivial, trivial_indices
from hemp_reader.coding.tuples.ans_stream import POPPED, Stack, cumulated
from hemp_reader.coding.tuples.count_table import CountTable
from hemp_reader.coding.tuples.counting import MAX_CELLS, least_bits, unpacked
from hemp_reader.errors import HempFileError
from hemp_reader.scan_order import SCANS, scan_axes


class TuplesDecoder:
    """Decodes tuples, whatever their length and scan: these stand in the payload.

    Example:
        >>> TuplesDecoder().decode(bytes.fromhex("0001002e"), (3,), num_levels=4)
        array([2, 2, 2], dtype=uint8)
    """

    name: ClassVar[str] = "tuples"

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape. See `Decoder.decode`."""
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


def max_order(num_levels: int) -> int:
    """The longest tuples that can be numbered up to 2^62."""
    order = 1
    while num_levels ** (order + 1) <= MAX_CELLS:
        order += 1
    return order


def _decode(
    data: Bytes, size: int, num_levels: int
) -> tuple[np.ndarray, str, np.ndarray, np.ndarray, float]:
    """Decode a payload that is not trivial.

    Returns:
        `size` indices in scan order, and the scan; of them the tuples, `(T, n)`; which of these
        are not listed, as bits; the bits that say which listed tuple comes when.
    """
    reader = ByteReader(data)
    options = reader.varint("order and scan", max_order(num_levels) * len(SCANS) - 1)
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
    coder = Stack(stored)
    # One row for each symbol; that of the escape does not matter.
    entries = np.zeros((len(table.cells) + table.has_escape, order), tuples.dtype)
    for place in range(order):
        column = table.cells // num_levels ** (order - 1 - place) % num_levels
        entries[len(entries) - len(column) :, place] = column
    model = cumulated(table)
    pieces = [slice(begin, begin + POPPED) for begin in range(0, size, POPPED)]
    for these in pieces:
        symbols = coder.pop(len(tuples[these]), model)
        tuples[these] = entries[symbols]
        if table.has_escape:
            bits_of = np.packbits(symbols == 0)
            escaped[these.start // 8 :][: len(bits_of)] = bits_of
    bits = 8.0 * len(stored) - coder.bits_left()
    if levels is not None:
        model = cumulated(levels)
        for these in pieces:
            rare = unpacked(escaped, these.start, len(tuples[these]))
            symbols = coder.pop(np.count_nonzero(rare) * order, model)
            tuples[these][rare] = levels.cells[symbols].reshape(-1, order)
    if not coder.is_empty():
        raise HempFileError(None, start, "coded tuples that end with the payload", "more of them")
    return bits


def index_width(num_levels: int) -> int:
    """Bits of an index by itself."""
    return (num_levels - 1).bit_length()


def _unpack_plain(reader: ByteReader, size: int, num_levels: int) -> np.ndarray:
    """What the writer packed, int64 `(size,)`."""
    width = index_width(num_levels)
    offset = reader.offset
    data = np.frombuffer(reader.take(-(-size * width // 8), "left-over indices"), np.uint8)
    bits = np.unpackbits(data, bitorder="little")
    indices = unpack_bits(bits[: size * width], np.full(size, width))
    if bits[size * width :].any() or (size and int(indices.max()) >= num_levels):
        raise HempFileError(None, offset, f"left-over indices below {num_levels}", "others")
    return indices
