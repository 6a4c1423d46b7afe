"""Short names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemp_lightning import HempFileError
from hemp_reader.bitstream import ByteReader
from hemp_reader.format.names import WORDS, expand, read_name, shorten, write_name

names = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=6).map("".join)


def test_words_never_change():
    """A file names words by their position: a new version may only add, and there is no room."""
    assert len(WORDS) == 31
    assert WORDS[0] == ".weight" and WORDS[4] == ".num_batches_tracked" and WORDS[30] == "head"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("conv1.weight", b"\x061\x01"),
        ("layer1.0.bn2.running_mean", b"\x081.0\x092\x03"),
        ("a\nb", b"a\x00\nb"),
        ("", b""),
        ("gewichtü.bias", "gewichtü".encode() + b"\x02"),
    ],
)
def test_known_names(name, short):
    assert shorten(name) == short
    assert expand(short) == name


@given(st.lists(names, max_size=6))
def test_names_come_back(given_names):
    data, previous = b"", b""
    for name in given_names:
        data += write_name(shorten(name), previous)
        previous = shorten(name)
    reader, previous = ByteReader(data), b""
    for name in given_names:
        previous = read_name(reader, previous)
        assert expand(previous) == name
    reader.end("names")


def test_lengths_beyond_a_nibble():
    first, second = shorten("x" * 40), shorten("x" * 30 + "y" * 20)
    data = write_name(second, first)
    assert data[:3] == bytes([0xFF, 30 - 15, 20 - 15])
    assert read_name(ByteReader(data), first) == second


@pytest.mark.parametrize(
    ("short", "message"),
    [
        (b"a\x00", "expected a control character after a byte 0, found None"),
        (b"\x00a", "expected a control character after a byte 0, found 97"),
        (b"\xff", r"expected a name in UTF-8, found b'\xff'"),
        (b"x" * 4097, "expected a name of at most 4096 bytes, found 4097 bytes"),
    ],
)
def test_broken_names(short, message):
    with pytest.raises(HempFileError) as error:
        expand(short)
    assert message in str(error.value)


def test_more_shared_than_there_is():
    with pytest.raises(HempFileError, match=r"expected at most 2 bytes shared .*, found 3"):
        read_name(ByteReader(b"\x30"), b"ab")
