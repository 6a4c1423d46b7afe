"""The coder of n-tuples: its model is the joint table that the entropy term counts.

The indices, in a named scan order, are cut into `T = P // n` tuples. The distinct tuples and how
often each occurs go ahead as a table of integers; the tuples follow, coded with just these
frequencies, so that they cost `T * H_n` bits: what training with the entropy term of order `n`
makes small. Tuples too rare to be worth an entry are spelled out level by level instead.

FORMAT.md, "Payload of the coder of tuples", is the specification.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import constriction
import numpy as np

from hemp_lightning.coding.coder import (
    check_indices,
    gather,
    index_dtype,
    is_trivial,
    trivial_indices,
)
from hemp_lightning.coding.tuples.count_table import MAX_LISTED, PRECISION, CountTable
from hemp_lightning.errors import HempFileError
from hemp_lightning.ground.bitstream import ByteReader, Bytes, pack_bits, unpack_bits, varint
from hemp_lightning.ground.scan_order import SCANS, check_scan, scan_axes

_DENSE_CELLS = 2**22  # up to here tuples are counted in an array with an entry for each cell
_PIECE = 2**18  # tuples that are counted at a time, a multiple of 8
_POPPED = 2**16  # tuples that are decoded at a time, a multiple of 8
_ENOUGH = 2**16  # words that no so many symbols of `PRECISION` bits use up, with the coder's state
_FED = 2**18  # words that the coder is given at a time
_RARE = (1, 2, 3, 4, 6, 10, 18)  # what occurs less often than this may be spelled out


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
        if isinstance(order, bool) or not isinstance(order, int):
            raise TypeError(f"`order` must be an integer; found {order!r}")
        if order < 1:
            raise ValueError(f"`order` must be at least 1; found {order}")
        self.order = order
        self.scan = check_scan(scan)

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
        return math.floor(_least_bits(tuples, num_levels) / 8)

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
        bits += _least_bits(tuples, num_levels, escaped)
        return max(len(data) - math.ceil(bits / 8), 0)

    def _cut(self, indices: np.ndarray, num_levels: int) -> tuple[np.ndarray, np.ndarray]:
        """Tuples `(T, n)`, and the indices that are left over."""
        if self.order > _max_order(num_levels):
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
    while num_levels ** (order + 1) <= 2**62:
        order += 1
    return order


def _encode_tuples(tuples: np.ndarray, num_levels: int) -> bytes:
    """Tables and coded tuples, for `tuples` of shape `(T, n)`."""
    if not len(tuples):
        return b""
    order = tuples.shape[1]
    cells, counts, ranks_of = _count(tuples, num_levels)
    listed, tables = _plan(cells, counts, order, num_levels)
    table = tables[0]
    symbols = np.where(listed, np.cumsum(listed) - (not table.has_escape), 0).astype(np.int32)
    coder = constriction.stream.stack.AnsCoder()
    # The coder is a stack: what is to be read first is pushed last.
    pieces = [slice(start, start + _PIECE) for start in range(0, len(tuples), _PIECE)][::-1]
    if table.has_escape:
        model = _model(tables[1])
        symbol_of = np.zeros(num_levels, np.int32)
        symbol_of[tables[1].cells] = np.arange(len(tables[1].cells))
        for these in pieces:
            spelled = tuples[these][~listed[ranks_of(these)]]
            _push(coder, gather(symbol_of, spelled.reshape(-1)), model)
    model = _model(table)
    for these in pieces:
        _push(coder, gather(symbols, ranks_of(these)), model)
    words = coder.get_compressed().astype("<u4").tobytes()
    return b"".join(part.to_bytes() for part in tables) + words.rstrip(b"\0")


def _numbers(tuples: np.ndarray, num_levels: int) -> np.ndarray:
    """The number of each tuple, int32 where an array with an entry for each cell is at hand."""
    dense = num_levels ** tuples.shape[1] <= _DENSE_CELLS
    numbers = tuples[:, 0].astype(np.int32 if dense else np.int64)
    for place in range(1, tuples.shape[1]):
        numbers *= num_levels
        numbers += tuples[:, place]
    return numbers


def _least_bits(tuples: np.ndarray, num_levels: int, these: np.ndarray | None = None) -> float:
    """`T * H_n` of tuples, `(T, n)`, or of some of them, bits that `_unpacked` takes."""
    num_cells = num_levels ** tuples.shape[1]
    if num_cells <= _DENSE_CELLS:
        counts = np.zeros(num_cells, np.int64)
        for start in range(0, len(tuples), _PIECE):
            piece = tuples[start : start + _PIECE]
            piece = piece if these is None else piece[_unpacked(these, start, len(piece))]
            counts += np.bincount(_numbers(piece, num_levels), minlength=num_cells)
        counts = counts[counts > 0]
    else:
        some = tuples if these is None else tuples[_unpacked(these, 0, len(tuples))]
        counts = np.unique(_numbers(some, num_levels), return_counts=True)[1]
    return float((counts * np.log2(counts.sum() / counts)).sum())


def _unpacked(bits: np.ndarray, start: int, count: int) -> np.ndarray:
    """`count` of the bits that `np.packbits` packed, from `start`, a multiple of 8, as bool."""
    return np.unpackbits(bits[start // 8 :], count=count).view(bool)


def _count(
    tuples: np.ndarray, num_levels: int
) -> tuple[np.ndarray, np.ndarray, Callable[[slice], np.ndarray]]:
    """The distinct tuples by number, how often each occurs, and which of them some tuples are."""
    num_cells = num_levels ** tuples.shape[1]
    if num_cells > _DENSE_CELLS:
        numbers = _numbers(tuples, num_levels)
        distinct, ranks, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        return distinct, counts, lambda these: ranks[these]
    counts = np.zeros(num_cells, np.int64)
    for start in range(0, len(tuples), _PIECE):  # numbers take more memory than tuples
        numbers = _numbers(tuples[start : start + _PIECE], num_levels)
        counts += np.bincount(numbers, minlength=num_cells)
    cells = np.flatnonzero(counts)
    rank_of = np.cumsum(counts > 0, dtype=np.int32) - 1
    return cells, counts[cells], lambda these: gather(rank_of, _numbers(tuples[these], num_levels))


def _plan(
    cells: np.ndarray, counts: np.ndarray, order: int, num_levels: int
) -> tuple[np.ndarray, list[CountTable]]:
    """Which tuples to list, bool `(U,)`, and the tables: of tuples; of levels, if some are spelled.

    The frequent ones: how frequent is tried out, and the least number of bytes wins.
    """
    digits = np.stack(
        [cells // num_levels**place % num_levels for place in reversed(range(order))], axis=1
    )
    best: tuple[float, np.ndarray, list[CountTable]] | None = None
    previous = -1
    for least in (*_RARE, int(counts.max()) + 1):
        listed = counts >= least
        size = int(listed.sum())
        if size == previous or size > MAX_LISTED:
            continue
        previous = size
        rare = counts[~listed]
        tables = [CountTable.count(cells[listed], counts[listed], int(rare.sum()))]
        occurrences = [np.concatenate([[rare.sum()] if size < len(cells) else [], counts[listed]])]
        if size < len(cells):
            spelled = np.zeros(num_levels, np.int64)
            for place in range(order):
                np.add.at(spelled, digits[~listed, place], rare)
            levels = np.flatnonzero(spelled)
            tables.append(CountTable.count(levels, spelled[levels], 0))
            occurrences.append(spelled[levels])
        total = 0.0
        for table, how_often in zip(tables, occurrences, strict=True):
            bits = how_often * (PRECISION - np.log2(table.weights()))
            total += len(table.to_bytes()) + float(bits.sum()) / 8
        if best is None or total < best[0]:
            best = total, listed, tables
    assert best is not None  # listing nothing is always possible
    return best[1], best[2]


def _push(coder: Any, symbols: np.ndarray, model: Any) -> None:
    """Code symbols, int32; nothing where there is but one."""
    if model is not None and len(symbols):
        coder.encode_reverse(symbols, model)


class _Decoder:
    """Symbols from coded words, which go to the coder piece by piece, from their end.

    The coder would copy all of them at once, and a copy of a large payload is a large one.

    Args:
        stored: Bytes of little-endian words of 32 bits; zeros at the end may be missing.
    """

    def __init__(self, stored: np.ndarray) -> None:
        whole = len(stored) // 4 * 4
        last = np.zeros(4, np.uint8)
        last[: len(stored) - whole] = stored[whole:]
        self._words = stored[:whole].view("<u4")
        self._coder = self._holding(last.view("<u4")[: len(stored) > whole])

    @staticmethod
    def _holding(words: np.ndarray) -> Any:
        return constriction.stream.stack.AnsCoder(words.astype(np.uint32))

    def pop(self, size: int, model: Any) -> np.ndarray:
        """Decode `size` symbols, int32."""
        if model is None or not size:
            return np.zeros(size, np.int32)
        parts = []
        for start in range(0, size, _POPPED):
            if len(self._words) and self._coder.num_words() < _ENOUGH:
                rest = self._coder.get_compressed()
                self._words, next_words = np.split(self._words, [max(len(self._words) - _FED, 0)])
                self._coder = self._holding(np.concatenate([next_words, rest]))
            parts.append(self._coder.decode(model, min(_POPPED, size - start)))
        return np.concatenate(parts)

    def is_empty(self) -> bool:
        """Whether all was decoded."""
        return not len(self._words) and bool(self._coder.is_empty())

    def bits_left(self) -> int:
        """Number of bits that are not decoded."""
        return 32 * len(self._words) + int(self._coder.num_valid_bits())


def _model(table: CountTable) -> Any:
    """A model with exactly the weights of a table; None if it has but one symbol.

    From probabilities `p` constriction makes the cumulated weights
    `i + floor(sum(p[:i]) * (2^24 - n) / sum(p))`. Here `p` are integers with the sum `2^24 - n`, so
    that each step is exact in float64 and the result does not depend on the machine.
    """
    weights = table.weights()
    if len(weights) == 1:
        return None
    return constriction.stream.model.Categorical(
        (weights - 1).astype(np.float64), lazy=False, perfect=False
    )


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
    coder = _Decoder(stored)
    # One row for each symbol; that of the escape does not matter.
    entries = np.zeros((len(table.cells) + table.has_escape, order), tuples.dtype)
    for place in range(order):
        column = table.cells // num_levels ** (order - 1 - place) % num_levels
        entries[len(entries) - len(column) :, place] = column
    model = _model(table)
    pieces = [slice(begin, begin + _POPPED) for begin in range(0, size, _POPPED)]
    for these in pieces:
        symbols = coder.pop(len(tuples[these]), model)
        tuples[these] = entries[symbols]
        if table.has_escape:
            bits_of = np.packbits(symbols == 0)
            escaped[these.start // 8 :][: len(bits_of)] = bits_of
    bits = 8.0 * len(stored) - coder.bits_left()
    if levels is not None:
        model = _model(levels)
        for these in pieces:
            rare = _unpacked(escaped, these.start, len(tuples[these]))
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
