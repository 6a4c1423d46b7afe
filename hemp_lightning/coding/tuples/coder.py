"""The coder of n-tuples: its model is the joint table that the entropy term counts.

The indices, in a named scan order, are cut into `T = P // n` tuples. The distinct tuples and how
often each occurs go ahead as a table of integers; the tuples follow, coded with just these
frequencies, so that they cost `T * H_n` bits: what training with the entropy term of order `n`
makes small. Tuples too rare to be worth an entry are spelled out level by level instead.

FORMAT.md, "Payload of the coder of tuples", is the specification.
"""

from __future__ import annotations

import math

import numpy as np

from hemp_lightning.coding.coder import check_indices
from hemp_lightning.coding.tuples.ans_stream import Encoder, model_of
from hemp_lightning.coding.tuples.listing import choose_listed
from hemp_reader.bitstream import pack_bits, varint
from hemp_reader.coding.indices import gather, is_trivial
from hemp_reader.coding.tuples.counting import check_order, count_tuples, least_bits
from hemp_reader.coding.tuples.decoder import TuplesDecoder, index_width, max_order
from hemp_reader.scan_order import SCANS, check_scan, scan_axes

_PIECE = 2**18  # tuples that are coded at a time


class TuplesCoder(TuplesDecoder):
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
        return self.order <= max_order(num_levels)

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

    def _cut(self, indices: np.ndarray, num_levels: int) -> tuple[np.ndarray, np.ndarray]:
        """Tuples `(T, n)`, and the indices that are left over."""
        if not self.takes(num_levels):
            raise ValueError(
                f"`order` must be at most {max_order(num_levels)} with {num_levels} levels, for "
                f"no more than 2^62 different tuples; found {self.order}"
            )
        scanned = indices.transpose(scan_axes(self.scan, indices.ndim)).reshape(-1)
        whole = scanned.size - scanned.size % self.order
        return scanned[:whole].reshape(-1, self.order), scanned[whole:]


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


def _pack_plain(indices: np.ndarray, num_levels: int) -> bytes:
    """A few indices with `index_width` bits each."""
    widths = np.full(len(indices), index_width(num_levels))
    return np.packbits(pack_bits(indices.astype(np.int64), widths), bitorder="little").tobytes()
