"""Steps: the tolerance, by Python's fractions; identity of the block; what is refused."""

from __future__ import annotations

import statistics
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hemp_lightning import HempFileError
from hemp_lightning.file.format.steps import round_to_steps, write_steps
from hemp_reader.bitstream import ByteReader
from hemp_reader.format.steps import read_steps

FLOATS = st.floats(-1000, 1000, width=32)
POSITIVE = st.floats(float(np.float32(1e-6)), float(np.float32(1e6)), width=32)


def words(entries):
    return np.asarray(entries, np.float32).view(np.uint32)


def round_trip(tensors):
    reader = ByteReader(write_steps(tensors))
    found, _ = read_steps(reader, [len(tensor) for tensor in tensors])
    reader.end("the block")
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=30) | st.lists(POSITIVE, min_size=1, max_size=30))
@example([999501.0, 999500.0])  # no steps: 2^24 of them end below
def test_no_entry_moves_beyond_the_tolerance(entries):
    rounded = round_to_steps(torch.tensor(entries))
    exact = [Fraction(float(np.float32(entry))) for entry in entries]
    middle = statistics.median(exact)
    deviation = sum(abs(e - middle) for e in exact) / len(exact)
    if rounded is None:  # a step is deviation / 32 at least, and float32 holds 2^24 of them
        subnormal = any(0 < abs(entry) < 2**-126 for entry in entries)
        assert 0 in entries or subnormal or max(map(abs, exact)) >= 2**19 * deviation
        return
    moves = [abs(Fraction(r) - e) for r, e in zip(rounded.tolist(), exact, strict=True)]
    positive = [entry for entry in exact if entry > 0]
    if min(exact) >= 0 and positive and max(exact) >= 4 * min(positive):
        assert all(move <= entry / 64 for move, entry in zip(moves, exact, strict=True))
    else:
        assert max(moves) <= deviation / 32
    if min(exact) > 0:
        assert min(rounded.tolist()) > 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(FLOATS | POSITIVE, st.floats(1e-4, 10)), min_size=1, max_size=30))
def test_no_entry_moves_beyond_its_limit(pairs):
    entries, limits = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)
    )
    entries = entries.float()
    rounded, free = round_to_steps(entries, limits), round_to_steps(entries)
    if rounded is None:
        return
    for entry, limit, moved in zip(
        entries.tolist(), limits.tolist(), rounded.tolist(), strict=True
    ):
        assert abs(Fraction(moved) - Fraction(entry)) <= Fraction(limit)
    if free is not None and ((free.double() - entries).abs() <= limits).all():
        assert torch.equal(rounded, free)  # limits that bind nothing change nothing


def test_a_variance_of_zero_keeps_the_others_from_becoming_zero():
    variances = torch.tensor([0.0, 0.097, 6.8, 3.1])  # of a dead channel and others
    rounded = round_to_steps(variances)
    assert rounded[0] == 0
    assert ((rounded - variances).abs() <= variances / 64).all()
    assert round_to_steps(torch.tensor([0.0, 1e-6, 6.8, 3.1])) is None  # float16 is shorter


def test_what_has_no_steps():
    assert round_to_steps(torch.ones(2, 2)) is None
    assert round_to_steps(torch.tensor([0.0, float("inf")])) is None
    assert round_to_steps(torch.tensor([1e-40, 1.0])) is None  # subnormal: too few digits
    outlier = torch.cat([torch.randn(10**6, generator=torch.manual_seed(0)) * 1e-4])
    outlier[3] = 1.0
    assert round_to_steps(outlier) is None  # 3 * 10^5 steps away from the others


@pytest.mark.parametrize("constant", [0.0, -0.0, 1.0, 0.1, -3.3e38, 1e-45, 1.17e-38])
@pytest.mark.parametrize("shape", [(), (1,), (7,)])
def test_constants_stay(constant, shape):
    tensor = torch.full(shape, constant)
    assert (round_to_steps(tensor) == tensor).all()
    flat = words(round_to_steps(tensor).reshape(-1))
    assert (round_trip([flat]) == flat).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(FLOATS, min_size=1, max_size=20), min_size=1, max_size=5))
def test_blocks_come_back(tensors):
    stepped = [round_to_steps(torch.tensor(entries)) for entries in tensors]
    flat = [words(tensor) for tensor in stepped if tensor is not None]
    if flat:
        assert (round_trip(flat) == np.concatenate(flat)).all()


def test_a_block_counted_by_hand():
    # One tensor of multiples: a byte of forms; k and the step 2^-2, folded 3; k and the centre 1,
    # folded 2; the lowest offset -3, 6 steps to the highest, and the size of the payload.
    data = write_steps([words([-0.5, 0.25, 1.0])])
    assert data[0] == 0
    assert data[1:3] == bytes([2, 0b111])  # golomb(2, 3): one, then the digits of 3
    assert data[5:8] == bytes([3, 6, len(data) - 8])


def test_two_hundred_variances_take_seven_bits():
    rng = np.random.default_rng(0)
    variances = torch.from_numpy(np.exp(rng.normal(0, 1, 200)).astype(np.float32))
    data = write_steps([words(round_to_steps(variances))])
    # Uniform on a logarithmic scale, 1/32 of an octave on the average 1/46 e-fold apart.
    entropy = np.log2(46 * np.sqrt(2 * np.pi * np.e))
    assert 200 * entropy / 8 < len(data) < 200 * (entropy + 0.9) / 8 + 12


def test_too_many_steps_are_refused():
    with pytest.raises(ValueError, match="entries must lie on at most 65536 steps"):
        write_steps([words([0.0, 1.0]), words([0.0, 2.0**-20, 0.1])])
    with pytest.raises(ValueError, match="entries must lie on steps"):
        write_steps([words([0.0, 2.0**-100, 1.0])])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "expected 1 bits of forms of tensors, found 0"),
        ("02", "expected zero bits up to the next byte"),
        ("00", "expected 1 bytes of parameter of steps"),
        ("00 00 01 00 01 00 00", "expected 1 bytes of size of coded entries"),
        ("00 00 01 00 01 00 00 05", "expected 5 bytes of coded entries"),
        ("00 00 01 00 01 00 00 01 00", "expected an empty payload"),
        ("00 08 3a 00 00 06 00 00 00", "expected finite entries on steps"),  # step 2^135
        ("01 00 01 00 01 00 00 00", "expected finite entries on steps"),  # digits of 0
    ],
)
def test_broken_blocks(data, message):
    with pytest.raises(HempFileError) as error:
        read_steps(ByteReader(bytes.fromhex(data)), [1])
    assert message in str(error.value)


def test_share_of_a_block_by_hand():
    # To the medians 0 and 2: 0 five times in eight, three others once each. With a bit for the
    # form, 4 log2(8/5) = 2.7 and 3 log2(8) + log2(8/5) = 9.7.
    block = write_steps([words([0, 0, 0, 0]), words([0, 1, 2, 3])])
    _, bits = read_steps(ByteReader(block), [4, 4])
    assert bits.tolist() == [3 + 1, 10 + 1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_hostile_blocks_are_finite_or_refused(data, counts):
    try:
        found, bits = read_steps(ByteReader(data), counts)
    except HempFileError:
        return
    assert len(found) == sum(counts) and np.isfinite(found.view(np.float32)).all()
    assert len(bits) == len(counts) and bits.min() >= 1
