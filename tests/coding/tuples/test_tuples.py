"""The coder of tuples against entropies counted by hand, and against an ANS decoder in Python."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hemp_lightning import HempFileError
from hemp_lightning.coding import get_coder
from hemp_lightning.coding.tuples import coder as tuples
from hemp_lightning.coding.tuples.coder import TuplesCoder
from hemp_reader.coding.tuples import ans_stream, counting, decoder
from hemp_reader.scan_order import SCANS

RANDOM = np.random.default_rng(20_260)


def entropy_bytes(indices, order):
    """`T * H_n / 8`, from counted Python tuples."""
    flat = indices.reshape(-1).tolist()
    tuples = [tuple(flat[i : i + order]) for i in range(0, len(flat) - order + 1, order)]
    return sum(-math.log2(c / len(tuples)) * c for c in Counter(tuples).values()) / 8


def skewed(size, num_levels, share=0.97):
    rare = RANDOM.integers(0, num_levels, size)
    return np.where(RANDOM.random(size) < share, num_levels // 2, rare)


def paired(size, num_levels):
    """Neighbours are alike, so order 2 has half the entropy of order 1."""
    return np.repeat(RANDOM.integers(0, num_levels, size // 2), 2)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "indices",
    [
        skewed(100_001, 7),
        skewed(3_000, 7),
        RANDOM.integers(0, 16, 50_000),
        RANDOM.integers(0, 300, 20_000),
        paired(40_000, 9),
        np.full(60_000, 5),
    ],
    ids=["skewed", "short", "uniform", "wide", "paired", "equal"],
)
def test_bytes_are_the_entropy_and_a_table(indices, order):
    num_levels = int(indices.max()) + 1
    coder = TuplesCoder(order)
    data = coder.encode(indices, num_levels)
    assert (coder.decode(data, indices.shape, num_levels) == indices).all()
    least = coder.least_bytes(indices, num_levels)
    assert entropy_bytes(indices, order) - 1 <= least <= len(data)
    table = coder.table_bytes(data, indices.shape, num_levels)
    assert 0 <= table <= len(data)
    coded = len(data) - table
    assert coded <= 1.01 * entropy_bytes(indices, order) + 64
    # No table is larger than its naive form: 16 bits a place and 32 bits a count.
    distinct = len(set(zip(*[iter(indices.tolist())] * order, strict=False)))
    assert table <= distinct * (2 * order + 4) + 16


@pytest.mark.parametrize("order", [1, 2, 3])
def test_few_kinds_of_tuples_have_small_tables(order):
    indices = skewed(200_000, 7)
    coder = TuplesCoder(order)
    data = coder.encode(indices, 7)
    assert coder.table_bytes(data, indices.shape, 7) < 64
    assert len(data) < 1.01 * entropy_bytes(indices, order) + 64


def test_equal_indices_need_no_stream():
    assert len(TuplesCoder(3).encode(np.full(10**6, 4), 5)) <= 8


def test_structure_in_tuples_is_used():
    indices = paired(100_000, 16)
    single = len(TuplesCoder(1).encode(indices, 16))
    double = len(TuplesCoder(2).encode(indices, 16))
    assert double < 0.51 * single


def plain_decode(payload, size, num_levels):
    """Order 1, row-major, nothing escaped: the whole payload with big integers and no NumPy."""
    assert payload[0] == 0  # order 1, scan row_major
    count, parameters, position = payload[1], payload[2], 24
    assert count < 128
    bits = [byte >> place & 1 for byte in payload for place in range(8)]

    def golomb(number, k):
        nonlocal position
        classes = []
        for _ in range(number):
            zeros = 0
            while not bits[position]:
                zeros, position = zeros + 1, position + 1
            position += 1
            classes.append(zeros)
        values = []
        for zeros in classes:
            low = sum(bits[position + i] << i for i in range(zeros + k))
            position += zeros + k
            values.append(((1 << zeros) - 1 << k) + low)
        return values

    gaps = golomb(count, parameters & 31)
    codes = golomb(count + 1, parameters >> 5)
    assert codes[0] == 0  # no escape
    cells = [gap + i for i, gap in enumerate(itertools.accumulate(gaps))]
    middles = {}
    code = 1
    for digits in range(1, 37):
        kept = max(digits - 3, 0) // 2
        shift = digits - 1 - kept
        for leading in range(1 << kept, 2 << kept):
            middles[code] = (leading << shift) + (1 << shift >> 1)
            code += 1
        if code > 2000:
            break
    counts = [middles[code + 1] for code in codes[1:]]
    weights = [1 + c * (2**24 - count) // sum(counts) for c in counts]
    weights[counts.index(max(counts))] += 2**24 - sum(weights)
    words = payload[-(-position // 8) :]
    words += bytes(-len(words) % 4)
    stack = [int.from_bytes(words[i : i + 4], "little") for i in range(0, len(words), 4)]
    state = 0
    while stack and state < 2**32:
        state = state << 32 | stack.pop()
    indices = []
    for _ in range(size):
        quantile, symbol, left = state & (2**24 - 1), 0, 0
        while quantile >= left + weights[symbol]:
            left += weights[symbol]
            symbol += 1
        state = (state >> 24) * weights[symbol] + quantile - left
        if state < 2**32 and stack:
            state = state << 32 | stack.pop()
        indices.append(cells[symbol])
    assert state == 0 and not stack
    return indices


@pytest.mark.parametrize("num_levels", [2, 7, 100])
def test_a_decoder_in_plain_python_agrees(num_levels):
    indices = np.minimum(RANDOM.geometric(0.4, 3000) - 1, num_levels - 1)
    indices[:num_levels] = np.arange(num_levels)
    payload = TuplesCoder(1).encode(indices, num_levels)
    assert plain_decode(payload, indices.size, num_levels) == indices.tolist()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_round_trip_of_anything(data):
    shape = data.draw(array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6))
    num_levels = data.draw(st.sampled_from([1, 2, 3, 7, 16, 255, 256, 257, 65_536]))
    order = data.draw(st.integers(1, 3))
    scan = data.draw(st.sampled_from(SCANS))
    values = st.integers(0, num_levels - 1) | st.integers(0, min(num_levels, 2) - 1)
    indices = data.draw(arrays(np.int64, shape, elements=values))
    payload = TuplesCoder(order, scan).encode(indices, num_levels)
    found = get_coder("tuples").decode(payload, shape, num_levels)
    assert found.dtype == (np.uint8 if num_levels <= 256 else np.uint16)
    assert found.shape == shape and (found == indices).all()
    assert TuplesCoder().table_bytes(payload, shape, num_levels) <= len(payload)


@pytest.mark.parametrize("scan", SCANS)
def test_scan_orders_the_tuples(scan):
    """Channels alike along one axis: the scan that runs along it finds the pairs."""
    axis = {"row_major": 3, "kernel": 3, "input": 1, "output": 0}[scan]
    shape = [8, 8, 4, 4]
    shape[axis] //= 2
    indices = np.repeat(RANDOM.integers(0, 8, shape), 2, axis=axis)
    sizes = {s: len(TuplesCoder(2, s).encode(indices, 8)) for s in SCANS}
    assert sizes[scan] == min(sizes.values())
    others = [s for s in SCANS if {s, scan} != {"row_major", "kernel"} and s != scan]
    assert all(sizes[scan] < 0.8 * sizes[s] for s in others)


def test_rare_tuples_are_spelled_out():
    """Half a million cells, hardly one hit twice: a list of them would be larger than the data."""
    indices = RANDOM.integers(0, 90, 9_000)
    payload = TuplesCoder(3).encode(indices, 90)
    assert len(payload) < 1.02 * 9_000 * math.log2(90) / 8 + 64
    assert (TuplesCoder().decode(payload, (9_000,), 90) == indices).all()


@pytest.mark.parametrize("is_compiled", [True, False])
def test_pieces_of_symbols_change_nothing(monkeypatch, is_compiled):
    """Decoded a few at a time; some tuples are spelled out, so that two models take turns."""
    indices = np.append(paired(3_000, 9), 5)
    indices[:600] = RANDOM.integers(0, 300, 600)
    data = TuplesCoder(2).encode(indices, 300)
    whole = TuplesCoder().table_bytes(data, indices.shape, 300)
    monkeypatch.setattr(tuples, "_PIECE", 40)
    monkeypatch.setattr(counting, "_PIECE", 40)
    monkeypatch.setattr(decoder, "POPPED", 40)
    monkeypatch.setattr(ans_stream, "POPPED", 16)
    monkeypatch.setattr(ans_stream, "IS_COMPILED", is_compiled)
    assert TuplesCoder(2).encode(indices, 300) == data
    assert (TuplesCoder(2).decode(data, indices.shape, 300) == indices).all()
    assert TuplesCoder().table_bytes(data, indices.shape, 300) == whole
    for broken in (data + b"\1", b"".join([data[:-40], data[-20:]]), data + bytes(range(1, 240))):
        with pytest.raises(HempFileError):
            TuplesCoder(2).decode(broken, indices.shape, 300)
    escaped = np.unpackbits(decoder._decode(data, indices.size, 300)[3])
    assert 100 < escaped.sum() < 1500 <= len(escaped)


def test_more_kinds_of_tuples_than_a_table_lists():
    cells = np.repeat(np.arange(70_000), 2)
    indices = np.stack([cells // 300, cells % 300], axis=1)
    payload = TuplesCoder(2).encode(indices, 300)
    assert (TuplesCoder().decode(payload, indices.shape, 300) == indices).all()


@pytest.mark.parametrize(
    ("order", "scan", "error", "message"),
    [
        (0, "kernel", ValueError, "`order` must be at least 1; found 0"),
        (1.5, "kernel", TypeError, "`order` must be an integer; found 1.5"),
        (True, "kernel", TypeError, "`order` must be an integer; found True"),
        (1, "zigzag", ValueError, "`scan` must be one of row_major, kernel, input, output; found"),
    ],
)
def test_arguments(order, scan, error, message):
    with pytest.raises(error, match=message):
        TuplesCoder(order, scan)


@pytest.mark.parametrize(
    ("indices", "num_levels", "error", "message"),
    [
        (np.zeros(3), 2, TypeError, "`indices` must be an integer array; found float64"),
        (np.array([0, 2]), 2, ValueError, r"`indices` must lie in \[0, 2\); found 0 to 2"),
        (np.array([-1]), 2, ValueError, r"`indices` must lie in \[0, 2\); found -1 to -1"),
        (np.array([0]), 0, ValueError, "`num_levels` must be from 1 to 65536; found 0"),
        (np.array([0]), 65_537, ValueError, "`num_levels` must be from 1 to 65536; found 65537"),
    ],
)
def test_what_cannot_be_coded(indices, num_levels, error, message):
    with pytest.raises(error, match=message):
        TuplesCoder().encode(indices, num_levels)


def test_tuples_too_long_to_number():
    with pytest.raises(ValueError, match=r"`order` must be at most 3 with 65536 levels.*found 4"):
        TuplesCoder(4).encode(np.zeros(8, np.int64), 65_536)
    indices = RANDOM.integers(0, 2, 620)
    payload = TuplesCoder(62).encode(indices, 2)
    assert (TuplesCoder().decode(payload, (620,), 2) == indices).all()


def spoiled(change):
    indices = np.arange(100) % 3
    payload = bytearray(TuplesCoder(2).encode(indices, 3))
    return bytes(change(payload))


@pytest.mark.parametrize(
    ("payload", "shape", "num_levels", "message"),
    [
        (b"\x00", (0,), 4, "byte 0: expected an empty payload, found 1 bytes"),
        (b"\x00", (5,), 1, "byte 0: expected an empty payload, found 1 bytes"),
        (b"", (5,), 4, "byte 0: expected 1 bytes of order and scan"),
        (b"\x7f", (5,), 65_536, "byte 0: expected order and scan of at most 11, found 127"),
        (b"\x04\xff", (5,), 5, "left-over indices below 5, found others"),  # three bits: 7
        (b"\x04\x08\x00", (5,), 5, "left-over indices below 5, found others"),  # padding
        (b"\x04\x00\x00", (1,), 5, "byte 2: expected the end of the payload, found 1 more"),
        (spoiled(lambda p: p + b"\0"), (100,), 3, "expected a last byte other than 0, found 0"),
        (spoiled(lambda p: p + b"\1"), (100,), 3, "expected coded tuples that end with the"),
        (b"\x00\x00\x00\x02\x00\x00\x02", (5,), 3, "expected a table of levels without escape"),
    ],
)
def test_broken_payloads(payload, shape, num_levels, message):
    with pytest.raises(HempFileError) as error:
        TuplesCoder().decode(payload, shape, num_levels)
    assert message in str(error.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([2, 5, 300]), st.integers(1, 200))
def test_random_payloads_decode_or_are_refused(payload, num_levels, size):
    try:
        found = TuplesCoder().decode(payload, (size,), num_levels)
    except HempFileError:
        return
    assert found.shape == (size,) and int(found.max()) < num_levels


@pytest.mark.parametrize(("num_levels", "order"), [(2, 62), (65_536, 3), (14, 16), (15, 15)])
def test_longest_tuples_that_can_be_numbered(num_levels, order):
    """2^62 numbers are enough for these, and not for one weight more."""
    indices = RANDOM.integers(0, num_levels, 5 * order + 1)
    indices[0], indices[order : 2 * order] = num_levels - 1, num_levels - 1
    coder = TuplesCoder(order)
    assert coder.takes(num_levels) and not TuplesCoder(order + 1).takes(num_levels)
    data = coder.encode(indices, num_levels)
    assert (coder.decode(data, indices.shape, num_levels) == indices).all()
    with pytest.raises(ValueError, match=f"`order` must be at most {order} with {num_levels}"):
        TuplesCoder(order + 1).encode(indices, num_levels)


@pytest.mark.parametrize("size", [4, 300, 70_000])
def test_least_bits_of_some_tuples(size):
    """The entropy of those alone, whether counted in an array or sorted."""
    chosen = RANDOM.random(size) < 0.5
    for num_levels, order in ((3, 1), (9, 4), (60, 6), (70, 12)):
        pool = RANDOM.integers(0, num_levels, (7, order))
        drawn = pool[RANDOM.integers(0, 7, size)].astype(np.uint8)
        counts = np.unique(drawn[chosen], axis=0, return_counts=True)[1]
        expected = (counts * np.log2(counts.sum() / counts)).sum()
        found = counting.least_bits(drawn, num_levels, np.packbits(chosen))
        assert found == pytest.approx(expected, rel=1e-12)
