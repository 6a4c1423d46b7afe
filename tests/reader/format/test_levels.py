"""Levels: bit for bit, and only finite, ascending ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemp_lightning import HempFileError
from hemp_reader.bitstream import ByteReader
from hemp_reader.format.levels import needs_wide, read_levels, write_levels


def ascending(width):
    values = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return st.lists(values, min_size=1).map(lambda x: np.unique(np.float32(x)))


narrow_levels = ascending(16).map(lambda levels: levels + np.float32(0))  # no -0.0
wide_levels = ascending(32)


@given(st.lists(narrow_levels, max_size=4), st.lists(wide_levels, max_size=3))
def test_levels_come_back_bit_for_bit(narrow, wide):
    data = write_levels(narrow, wide) + b"x"
    reader = ByteReader(data)
    found = read_levels(reader, [len(x) for x in narrow], [len(x) for x in wide])
    assert reader.rest() == b"x"
    for wanted, got in zip([*narrow, *wide], [*found[0], *found[1]], strict=True):
        assert got.dtype == np.float32 and wanted.tobytes() == got.tobytes()


@pytest.mark.parametrize(
    ("levels", "wide"),
    [
        ([-65504, 0, 65504], False),
        ([65520], True),  # would round to infinity
        ([2.0**-24, 2.0**-14], False),  # subnormal in float16
        ([2.0**-25], True),
        ([-0.0, 1.0], True),
        ([0.1], True),
        ([np.float32(np.float16(0.1))], False),
    ],
)
def test_needs_wide(levels, wide):
    assert needs_wide(np.float32(levels)) is wide


def test_round_levels_take_fewer_bytes():
    fine = np.float32(np.float16(np.linspace(-1, 1, 33) + 1e-3))
    coarse = np.float32(np.linspace(-1, 1, 33))
    assert len(write_levels([coarse], [])) < len(write_levels([fine], [])) < 2 * 33


def test_hand_made_levels():
    """-1, 0, 1 are the ordinals -15 * 2^10, 0, 15 * 2^10: shift 10, values 29, 14, 14."""
    assert write_levels([np.float32([-1, 0, 1])], [])[0] >> 4 == 10
    # k = 0: 30 and 15, 15 are 11110, 1111, 1111: zeros and a one, then the low digits
    bits = "0000100010001" + "0111" + "111" + "111"
    data = bytes([10 << 4]) + int(bits[::-1], 2).to_bytes(3, "little")
    (found,), _ = read_levels(ByteReader(data), [3], [])
    assert found.tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("data", "narrow", "wide", "message"),
    [
        (b"", [1], [], "expected 1 bytes of parameters of the levels"),
        (b"\x00\x00", [1], [], "expected 1 values of levels, found 0 up to the end"),
        (b"\x0f\x18\x00\xff", [1], [], "zero bits up to the next byte"),
        (b"\xf0\x0c", [1], [], "expected finite levels, found others"),  # 001 10: 2 * 2^15
        (b"\x00\0\0\x02\0\0", [1], [], "expected levels of 16 bits, found wider ones"),
        (np.float32([1, 1]).tobytes(), [], [2], "strictly ascending levels, found others"),
        (np.float32([1, np.inf]).tobytes(), [], [2], "expected finite, strictly ascending levels"),
        (np.float32([np.nan]).tobytes(), [], [1], "expected finite, strictly ascending levels"),
        (b"\0\0\0", [], [1], "expected 4 bytes of levels, found 3 bytes to the end"),
    ],
)
def test_broken_levels(data, narrow, wide, message):
    with pytest.raises(HempFileError) as error:
        read_levels(ByteReader(data), narrow, wide)
    assert message in str(error.value)
