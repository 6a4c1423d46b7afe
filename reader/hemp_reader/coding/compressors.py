"""Decoders without a model of their own: plain bits, and general-purpose compressors.

The compressors saw the indices in row-major order, one byte each up to 256 levels and two
little-endian bytes beyond. Their payloads leave out headers and checksums, which the container
has already, wherever the standard library can.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.coding.indices import index_dtype, is_trivial, trivial_indices
from hemp_reader.errors import HempFileError

_CHUNK = 2**16  # indices that are packed at a time


class RawDecoder:
    r"""Every index in `ceil(log2(num_levels))` bits: for tensors too small for any model.

    Example:
        >>> RawDecoder().decode(b"\x13", (3,), num_levels=4)  # 01 00 11
        array([3, 0, 1], dtype=uint8)
    """

    name: ClassVar[str] = "raw"

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape. See `Decoder.decode`."""
        if is_trivial(shape, num_levels):
            return trivial_indices(data, shape, num_levels)
        size, width = math.prod(shape), (num_levels - 1).bit_length()
        _check_size(len(data), -(-size * width // 8))
        packed = np.frombuffer(data, np.uint8)
        if size * width % 8 and packed[-1] >> size * width % 8:
            raise HempFileError(None, len(data) - 1, "zero bits up to the end", "a one")
        indices = np.empty(size, index_dtype(num_levels))
        places = np.arange(width, dtype=indices.dtype)
        for start in range(0, size, _CHUNK):
            part = indices[start : start + _CHUNK]
            begin = start * width // 8
            bits = np.unpackbits(
                packed[begin : begin + -(-part.size * width // 8)],
                count=part.size * width,
                bitorder="little",
            ).reshape(-1, width)
            part[:] = (bits.astype(indices.dtype) << places).sum(axis=1, dtype=indices.dtype)
        return _check_range(indices, num_levels).reshape(shape)

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """0: there is no model."""
        return 0


class _Decompressor(ABC):
    """What the three share; a subclass names the algorithm."""

    name: ClassVar[str]

    def decode(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> np.ndarray:
        """Indices of that shape. See `Decoder.decode`."""
        if is_trivial(shape, num_levels):
            return trivial_indices(data, shape, num_levels)
        dtype = np.dtype(index_dtype(num_levels))
        size = math.prod(shape) * dtype.itemsize
        decompressor = self._decompressor(size)
        try:
            # Room for one byte more lets the decompressor see the end of the stream, and shows a
            # stream that is too long.
            plain = decompressor.decompress(data, size + 1)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            found = str(error) or type(error).__name__
            raise HempFileError(None, 0, f"a whole {self.name} stream", found) from error
        _check_size(len(plain), size)
        if not decompressor.eof or decompressor.unused_data:
            raise HempFileError(None, len(data), "the stream's end at the payload's", "another")
        indices = np.frombuffer(plain, dtype.newbyteorder("<")).astype(dtype)
        return _check_range(indices, num_levels).reshape(shape)

    def table_bytes(self, data: Bytes, shape: tuple[int, ...], num_levels: int) -> int:
        """0: the model adapts."""
        return 0

    @abstractmethod
    def _decompressor(self, size: int) -> Any:
        """A decompressor as in the standard library, for a stream that stands for `size` bytes."""


class LzmaDecoder(_Decompressor):
    """LZMA2 without container."""

    name: ClassVar[str] = "lzma"

    @staticmethod
    def filters(size: int) -> list[dict[str, Any]]:
        """Of a stream that stands for `size` bytes, at the effort of `xz -9e`."""
        # The reader allocates the dictionary at once, so it is no larger than the data.
        dictionary = min(max(1 << (size - 1).bit_length(), 2**12), 2**26)
        effort = 9 | lzma.PRESET_EXTREME
        return [{"id": lzma.FILTER_LZMA2, "preset": effort, "dict_size": dictionary}]

    def _decompressor(self, size: int) -> Any:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self.filters(size))


class Bz2Decoder(_Decompressor):
    """A bz2 stream."""

    name: ClassVar[str] = "bz2"

    def _decompressor(self, size: int) -> Any:
        return bz2.BZ2Decompressor()


class ZlibDecoder(_Decompressor):
    """Deflate without header or checksum.

    Example:
        >>> ZlibDecoder().decode(zlib.compress(bytes([3, 0, 1]), wbits=-15), (3,), num_levels=4)
        array([3, 0, 1], dtype=uint8)
    """

    name: ClassVar[str] = "zlib"

    def _decompressor(self, size: int) -> Any:
        return zlib.decompressobj(-zlib.MAX_WBITS)


def _check_size(found: int, expected: int) -> None:
    if found != expected:
        size = f"{found} bytes" if found < expected else f"more than {expected} bytes"
        raise HempFileError(None, 0, f"{expected} bytes of indices", size)


def _check_range(indices: np.ndarray, num_levels: int) -> np.ndarray:
    if int(indices.max()) >= num_levels:
        raise HempFileError(None, 0, f"indices below {num_levels}", str(int(indices.max())))
    return indices
