"""Coders without a model of their own: plain bits, and general-purpose compressors to compare with.

`hemp_reader.coding.compressors` decodes what they write.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from abc import ABC, abstractmethod

import numpy as np

from hemp_lightning.coding.coder import check_indices
from hemp_reader.coding.compressors import Bz2Decoder, LzmaDecoder, RawDecoder, ZlibDecoder
from hemp_reader.coding.indices import is_trivial

_CHUNK = 2**16  # indices that are packed at a time


class RawCoder(RawDecoder):
    r"""Every index in `ceil(log2(num_levels))` bits: for tensors too small for any model.

    Example:
        >>> RawCoder().encode(np.array([3, 0, 1]), num_levels=4)  # 01 00 11
        b'\x13'
    """

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        """Code `indices`. See `Coder.encode`."""
        flat = check_indices(indices, num_levels).reshape(-1)
        places = np.arange((num_levels - 1).bit_length(), dtype=flat.dtype)
        parts = []
        for start in range(0, flat.size, _CHUNK):  # a multiple of 8, so each part is whole bytes
            bits = (flat[start : start + _CHUNK, None] >> places & 1).astype(np.uint8)
            parts.append(np.packbits(bits, bitorder="little").tobytes())
        return b"".join(parts)

    def least_bytes(self, indices: np.ndarray, num_levels: int) -> int:
        """The size of the payload."""
        return -(-indices.size * (num_levels - 1).bit_length() // 8)


class _Compressor(ABC):
    """What the three compressors share; a subclass names the algorithm."""

    def encode(self, indices: np.ndarray, num_levels: int) -> bytes:
        """Code `indices`. See `Coder.encode`."""
        indices = check_indices(indices, num_levels)
        if is_trivial(indices.shape, num_levels):
            return b""
        return self._compress(indices.astype(indices.dtype.newbyteorder("<")).tobytes())

    @abstractmethod
    def _compress(self, plain: bytes) -> bytes:
        """The stream of some bytes."""


class LzmaCoder(_Compressor, LzmaDecoder):
    """LZMA2 without container, at the effort of `xz -9e`.

    Example:
        >>> len(LzmaCoder().encode(np.zeros(100_000, np.uint8), num_levels=4))
        91
    """

    def _compress(self, plain: bytes) -> bytes:
        return lzma.compress(plain, lzma.FORMAT_RAW, filters=self.filters(len(plain)))


class Bz2Coder(_Compressor, Bz2Decoder):
    """bz2 at its largest block size.

    Example:
        >>> len(Bz2Coder().encode(np.zeros(100_000, np.uint8), num_levels=4))
        47
    """

    def _compress(self, plain: bytes) -> bytes:
        return bz2.compress(plain, 9)


class ZlibCoder(_Compressor, ZlibDecoder):
    """Deflate without header or checksum, at its highest effort.

    Example:
        >>> data = ZlibCoder().encode(np.zeros(100_000, np.uint8), num_levels=4)
        >>> bool(ZlibCoder().decode(data, (100_000,), num_levels=4).any())
        False
    """

    def _compress(self, plain: bytes) -> bytes:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return compressor.compress(plain) + compressor.flush()
