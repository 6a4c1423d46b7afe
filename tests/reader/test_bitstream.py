"""Integer codes against bits worked out by hand and a one-bit-at-a-time reader."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemp_lightning import HempFileError
from hemp_reader.bitstream import (
    BitReader,
    ByteReader,
    bit_length,
    fold_sign,
    golomb_bits,
    golomb_encode,
    golomb_parameter,
    pack_bits,
    unfold_sign,
    unpack_bits,
    varint,
)

integers = st.integers(0, 2**61 - 1)


def plain_golomb(values, k):
    """The code, from its definition, digit by digit."""
    unary, digits = [], []
    for value in values:
        upper = (value >> k) + 1
        classes = upper.bit_length() - 1
        unary += [0] * classes + [1]
        low = (upper - (1 << classes)) << k | value & ((1 << k) - 1)
        digits += [low >> place & 1 for place in range(classes + k)]
    return unary + digits


@pytest.mark.parametrize(
    ("value", "data"),
    [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (624485, b"\xe5\x8e\x26")],
)
def test_varint_is_leb128(value, data):
    assert varint(value) == data
    assert ByteReader(data).varint("it") == value


@given(st.lists(integers, max_size=5))
def test_varints_follow_each_other(values):
    reader = ByteReader(b"".join(map(varint, values)))
    assert [reader.varint("it") for _ in values] == values
    reader.end("it")


@pytest.mark.parametrize(
    ("data", "limit", "message"),
    [
        (b"", 9, "byte 0: expected 1 bytes of it, found 0 bytes to the end"),
        (b"\x80", 9, "byte 1: expected 1 bytes of it, found 0 bytes to the end"),
        (b"\x80\x00", 9, "byte 0: expected it in its shortest form, found a longer one"),
        (b"\xff" * 9 + b"\x01", 9, "byte 0: expected it in at most 9 bytes, found more"),
        (b"\x0a", 9, "byte 0: expected it of at most 9, found 10"),
    ],
)
def test_broken_varints(data, limit, message):
    with pytest.raises(HempFileError) as error:
        ByteReader(data).varint("it", limit)
    assert str(error.value) == message


def test_reader_stops_at_the_end():
    reader = ByteReader(b"abc", 1)
    assert reader.take(1, "it") == b"b"
    with pytest.raises(HempFileError, match="byte 2: expected the end of it, found 1 more bytes"):
        reader.end("it")
    assert reader.rest() == b"c"
    reader.end("it")


@given(st.lists(integers, max_size=20))
def test_bit_length_is_pythons(values):
    found = bit_length(np.array(values, np.int64))
    assert found.tolist() == [value.bit_length() for value in values]


@given(st.lists(st.integers(-(2**60), 2**60), max_size=20))
def test_signs_fold_to_distinct_naturals(values):
    folded = fold_sign(np.array(values, np.int64))
    assert unfold_sign(folded).tolist() == values
    assert folded.tolist() == [2 * v if v >= 0 else -2 * v - 1 for v in values]


@given(st.lists(st.tuples(integers, st.integers(0, 62)), max_size=20))
def test_packed_bits_come_back(pairs):
    values = np.array([value & ((1 << width) - 1) for value, width in pairs], np.int64)
    widths = np.array([width for _, width in pairs], np.int64)
    bits = pack_bits(values, widths)
    expected = [v >> p & 1 for v, w in zip(values.tolist(), widths, strict=True) for p in range(w)]
    assert bits.tolist() == expected
    assert unpack_bits(bits, widths).tolist() == values.tolist()


@given(st.lists(st.integers(0, 2**40), max_size=30), st.integers(0, 15))
def test_golomb_code_is_its_definition(values, k):
    array = np.array(values, np.int64)
    bits = golomb_encode(array, k)
    assert bits.tolist() == plain_golomb(values, k)
    assert len(bits) == golomb_bits(array, k)
    reader = ByteReader(b"x" + np.packbits(bits, bitorder="little").tobytes() + b"end", 1)
    read = BitReader(reader, len(values))
    assert read.golomb(len(values), k, "it").tolist() == values
    read.finish()
    assert reader.rest() == b"end"


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=30))
def test_golomb_parameter_is_the_best(values):
    array = np.array(values)
    best = min(range(40), key=lambda k: (golomb_bits(array, k), k))
    assert golomb_bits(array, golomb_parameter(array)) == golomb_bits(array, best)


@pytest.mark.parametrize(
    ("data", "count", "k", "message"),
    [
        (b"\x01", 2, 0, "expected 2 values of it, found 1 up to the end"),
        (b"\x80", 1, 0, "byte 2: expected 7 bits of it, found 0 bits to the end"),
        (bytes(7) + b"\x80" + bytes(9), 1, 0, "expected it below 2^62, found 63 digits"),
        (b"\x03", 1, 0, "expected zero bits up to the next byte, found a one"),
    ],
)
def test_broken_golomb_codes(data, count, k, message):
    with pytest.raises(HempFileError) as error:
        reader = BitReader(ByteReader(b"x" + data, 1), count)
        reader.golomb(count, k, "it")
        reader.finish()
    assert message in str(error.value)
