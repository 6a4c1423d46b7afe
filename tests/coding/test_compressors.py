"""Plain bits and general-purpose compressors."""

from __future__ import annotations

import bz2
import lzma
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hemp_lightning import HempFileError
from hemp_lightning.coding import CODERS, get_coder
from hemp_reader.coding import decoder_by_id

GENERAL = ("raw", "lzma", "bz2", "zlib")


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(GENERAL))
def test_round_trip_of_anything(data, name):
    shape = data.draw(array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6))
    num_levels = data.draw(st.sampled_from([1, 2, 3, 7, 256, 257, 65_536]))
    indices = data.draw(arrays(np.int64, shape, elements=st.integers(0, num_levels - 1)))
    coder = get_coder(name)
    payload = coder.encode(indices, num_levels)
    found = coder.decode(payload, shape, num_levels)
    assert found.dtype == (np.uint8 if num_levels <= 256 else np.uint16)
    assert found.shape == shape and (found == indices).all()
    assert coder.table_bytes(payload, shape, num_levels) == 0


@pytest.mark.parametrize(("num_levels", "width"), [(2, 1), (3, 2), (16, 4), (17, 5), (65_536, 16)])
def test_raw_takes_whole_bits(num_levels, width):
    size = 2**16 + 13  # more than a chunk
    indices = np.random.default_rng(0).integers(0, num_levels, size)
    payload = get_coder("raw").encode(indices, num_levels)
    assert len(payload) == -(-size * width // 8)
    number = int.from_bytes(payload, "little")
    assert [number >> i * width & (1 << width) - 1 for i in (0, 1, size - 1)] == [
        int(indices[i]) for i in (0, 1, size - 1)
    ]
    assert (get_coder("raw").decode(payload, (size,), num_levels) == indices).all()


def test_compressors_see_little_endian_bytes():
    indices = np.arange(1000).reshape(10, 100)
    plain = indices.astype("<u2").tobytes()
    payload = get_coder("zlib").encode(indices, 1000)
    assert zlib.decompress(payload, -15) == plain
    assert bz2.decompress(get_coder("bz2").encode(indices, 1000)) == plain
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
    payload = get_coder("lzma").encode(indices, 1000)
    assert lzma.decompress(payload, lzma.FORMAT_RAW, filters=filters) == plain


@pytest.mark.parametrize("name", ["lzma", "bz2", "zlib"])
def test_broken_streams(name):
    coder = get_coder(name)
    payload = coder.encode(np.arange(1000) % 7, 7)
    for broken, message in [
        (payload[:-1], "expected"),
        (payload + b"x", "expected the stream's end at the payload's, found another"),
        (b"\xff" * 40, "expected"),
        (coder.encode(np.zeros(1001, np.int64), 7), "1000 bytes of indices, found more than 1000"),
        (coder.encode(np.zeros(999, np.int64), 7), "1000 bytes of indices, found 999 bytes"),
        (coder.encode(np.full(1000, 9), 10), "expected indices below 7, found 9"),
    ]:
        with pytest.raises(HempFileError) as error:
            coder.decode(broken, (1000,), 7)
        assert message in str(error.value)


@pytest.mark.parametrize("name", ["lzma", "bz2", "zlib"])
def test_a_bomb_is_not_unpacked(name):
    bomb = get_coder(name).encode(np.zeros(2**22, np.uint8), 2)
    with pytest.raises(HempFileError, match="expected 10 bytes of indices, found more than 10"):
        get_coder(name).decode(bomb, (10,), 2)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x00\x00", "expected 1 bytes of indices, found more than 1 bytes"),
        (b"", "expected 1 bytes of indices, found 0 bytes"),
        (b"\x40", "expected zero bits up to the end, found a one"),
        (b"\x03", "expected indices below 3, found 3"),
    ],
)
def test_broken_plain_bits(payload, message):
    with pytest.raises(HempFileError) as error:
        get_coder("raw").decode(payload, (3,), 3)
    assert message in str(error.value)


def test_registry():
    numbers = {name: entry.number for name, entry in CODERS.items()}
    fixed = {"raw": 0, "tuples": 1, "context": 2, "lzma": 3, "bz2": 4, "zlib": 5}
    assert fixed.items() <= numbers.items()
    assert len(set(numbers.values())) == len(numbers)
    for name, number in numbers.items():
        assert decoder_by_id(number).name == get_coder(name).name == name
    with pytest.raises(ValueError, match=r"`coder` must be one of raw, .*; found 'brotli'"):
        get_coder("brotli")
    with pytest.raises(HempFileError, match=r"a coder's number, one of 0 \(raw\), .*, found 99"):
        decoder_by_id(99)
