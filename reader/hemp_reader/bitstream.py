"""Integers as few bytes: variable-length integers, fixed-width fields, exponential Golomb codes.

Everything that describes a model or a tensor, and is no coded index, is written with these. Bits
are numbered from the least significant bit of the first byte.
"""

from __future__ import annotations

from typing import IO, TypeAlias

import numpy as np

from hemp_reader.errors import HempFileError

Bytes: TypeAlias = bytes | bytearray
"""What may be decoded; a bytearray is nobody else's."""

MAX_INTEGER = 2**62 - 1
"""The largest integer that a file may hold, so that no sum of two overflows an int64."""

_POWERS = 2 ** np.arange(63, dtype=np.int64)


def varint(value: int) -> bytes:
    r"""LEB128: seven bits a byte, the low ones first; the top bit says that more follow.

    Example:
        >>> varint(5), varint(300)
        (b'\x05', b'\xac\x02')
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class FileBytes:
    """A part of a file as bytes that are read when they are asked for, and are then the caller's.

    Args:
        file: An open file.
        start: Where the part begins.
        size: How long it is.
    """

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size

    def __len__(self) -> int:
        return self._size

    def read(self, begin: int, end: int) -> bytearray:
        """The bytes from `begin` to before `end`; fewer if the file has become shorter."""
        self._file.seek(self._start + begin)
        data = bytearray(end - begin)
        del data[self._file.readinto(data) :]  # type: ignore[attr-defined]
        return data


class ByteReader:
    r"""Reads bytes from the front, and never beyond the end.

    Args:
        data: What to read.
        start: Offset to begin at.

    Example:
        >>> reader = ByteReader(b"\xac\x02abc")
        >>> reader.varint("a length"), reader.take(2, "a name"), reader.offset
        (300, b'ab', 4)
    """

    def __init__(self, data: Bytes | FileBytes, start: int = 0) -> None:
        self.data = data
        self.offset = start

    @property
    def left(self) -> int:
        """Number of bytes that are not yet read."""
        return len(self.data) - self.offset

    def take(self, size: int, what: str) -> Bytes:
        """The next `size` bytes.

        Raises:
            HempFileError: If there are fewer.
        """
        found = self.view(size, what)
        return found.obj if isinstance(self.data, FileBytes) else bytes(found)  # type: ignore[return-value]

    def view(self, size: int, what: str) -> memoryview:
        """As `take`, without a copy."""
        begin, end = self.offset, self.offset + size
        if size <= self.left:
            self.offset = end
            if not isinstance(self.data, FileBytes):
                return memoryview(self.data)[begin:end]
            found = self.data.read(begin, end)
            if len(found) == size:
                return memoryview(found)
            end = begin + len(found)  # somebody has cut the file
        else:
            end = len(self.data)
        raise HempFileError(
            None, begin, f"{size} bytes of {what}", f"{end - begin} bytes to the end"
        )

    def rest(self) -> Bytes:
        """Everything that is left."""
        return self.take(self.left, "the rest")

    def byte(self, what: str) -> int:
        """The next byte.

        Raises:
            HempFileError: If there is none.
        """
        return self.take(1, what)[0]

    def varint(self, what: str, limit: int = MAX_INTEGER) -> int:
        """The next integer, as `varint` writes it.

        Raises:
            HempFileError: If it ends early, is longer than it needs to be, or is above `limit`.
        """
        start, value, shift = self.offset, 0, 0
        while True:
            byte = self.byte(what)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 62:
                raise HempFileError(None, start, f"{what} in at most 9 bytes", "more")
        if byte == 0 and shift > 7:
            raise HempFileError(None, start, f"{what} in its shortest form", "a longer one")
        if value > limit:
            raise HempFileError(None, start, f"{what} of at most {limit}", str(value))
        return value

    def end(self, what: str) -> None:
        """Check that nothing is left.

        Raises:
            HempFileError: If something is.
        """
        if self.left:
            raise HempFileError(None, self.offset, f"the end of {what}", f"{self.left} more bytes")


def bit_length(values: np.ndarray) -> np.ndarray:
    """Number of binary digits of each integer from 0 to 2^62 - 1, exactly.

    Example:
        >>> bit_length(np.array([0, 1, 7, 8, 2**61]))
        array([ 0,  1,  3,  4, 62])
    """
    return np.searchsorted(_POWERS, values, side="right")


def fold_sign(values: np.ndarray) -> np.ndarray:
    """Integers from 0 on for integers of both signs: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...

    Example:
        >>> fold_sign(np.array([0, -1, 1, -2])), unfold_sign(np.array([0, 1, 2, 3]))
        (array([0, 1, 2, 3]), array([ 0, -1,  1, -2]))
    """
    return 2 * np.abs(values) - (values < 0)


def unfold_sign(folded: np.ndarray) -> np.ndarray:
    """What `fold_sign` folded."""
    return np.where(folded & 1, -(folded >> 1) - 1, folded >> 1)


def pack_bits(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The `widths[i]` low bits of each value, one after the other: uint8 array of 0 and 1.

    Example:
        >>> pack_bits(np.array([1, 6]), np.array([1, 3]))
        array([1, 0, 1, 1], dtype=uint8)
    """
    starts = np.cumsum(widths) - widths
    bits = np.zeros(int(widths.sum()), np.uint8)
    for place in range(int(widths.max(initial=0))):
        has = widths > place
        bits[starts[has] + place] = values[has] >> place & 1
    return bits


def unpack_bits(bits: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The int64 values that `pack_bits` wrote with these widths, each at most 62."""
    starts = np.cumsum(widths) - widths
    values = np.zeros(len(widths), np.int64)
    for place in range(int(widths.max(initial=0))):
        has = widths > place
        values[has] |= bits[starts[has] + place].astype(np.int64) << place
    return values


def golomb_parameter(values: np.ndarray) -> int:
    """The parameter `k` that codes `values` in the fewest bits."""
    mean = int(values.sum()) // max(len(values), 1)
    return min(range(mean.bit_length() + 2), key=lambda k: golomb_bits(values, k))


def golomb_bits(values: np.ndarray, k: int) -> int:
    """Number of bits that `golomb_encode` spends."""
    return int((2 * bit_length((values >> k) + 1) - 1 + k).sum())


def golomb_encode(values: np.ndarray, k: int) -> np.ndarray:
    """Exponential Golomb code of integers from 0 on, with parameter `k`: an array of bits.

    With `u = (v >> k) + 1` of `c + 1` digits, a value is `c` zeros and a one, then the `c` low
    digits of `u` and the `k` low digits of `v`. All the zeros and ones stand in front of all the
    digits, so that they can be found without a loop.

    Example:
        >>> golomb_encode(np.array([0, 4]), 1)  # 1, 01 | 0, 0 1
        array([1, 0, 1, 0, 0, 1], dtype=uint8)
    """
    upper = (values >> k) + 1
    classes = bit_length(upper) - 1
    unary = np.zeros(int(classes.sum()) + len(values), np.uint8)
    unary[np.cumsum(classes + 1) - 1] = 1
    digits = ((upper - _POWERS[classes]) << k) | (values & ((1 << k) - 1))
    return np.concatenate([unary, pack_bits(digits, classes + k)])


class BitReader:
    """Reads arrays of integers from the bits at the front of a `ByteReader`.

    Args:
        reader: Where the bits begin; `finish` moves it past the last byte that was touched.
        count: The most values that will be read; each has at most 16 bytes.
    """

    def __init__(self, reader: ByteReader, count: int) -> None:
        self._reader = reader
        size = min(reader.left, 16 * count)
        start, window = reader.offset, reader.view(size, "bits")
        reader.offset = start
        self._bits = np.unpackbits(np.frombuffer(window, np.uint8), bitorder="little")
        self._position = 0

    def _broken(self, expected: str, found: str) -> HempFileError:
        return HempFileError(None, self._reader.offset + self._position // 8, expected, found)

    def fixed(self, widths: np.ndarray, what: str) -> np.ndarray:
        """Values of these widths in bits, int64.

        Raises:
            HempFileError: If the bytes end before.
        """
        total = int(widths.sum())
        left = len(self._bits) - self._position
        if total > left:
            raise self._broken(f"{total} bits of {what}", f"{left} bits to the end")
        values = unpack_bits(self._bits[self._position : self._position + total], widths)
        self._position += total
        return values

    def golomb(self, count: int, k: int, what: str) -> np.ndarray:
        """The `count` values that `golomb_encode` wrote with `k`, int64, each below 2^62.

        Raises:
            HempFileError: If the bytes end before, or a value is out of range.
        """
        ends = np.flatnonzero(self._bits[self._position :])[:count]
        if len(ends) < count:
            raise self._broken(f"{count} values of {what}", f"{len(ends)} up to the end")
        classes = np.diff(ends, prepend=-1) - 1
        if count and int(classes.max()) + k > 61:
            raise self._broken(f"{what} below 2^62", f"{int(classes.max()) + k} digits")
        self._position += int(ends[-1]) + 1 if count else 0
        digits = self.fixed(classes + k, what)
        return ((_POWERS[classes] - 1) << k) + digits

    def finish(self) -> None:
        """Skip to the next whole byte, whose leftover bits must be 0, and move the byte reader.

        Raises:
            HempFileError: If a padding bit is set.
        """
        size = -(-self._position // 8)
        if self._bits[self._position : 8 * size].any():
            raise self._broken("zero bits up to the next byte", "a one")
        self._reader.offset += size
