"""Tables of counts: exact sums, monotone codes, and every way in which a table can be broken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemp_lightning import HempFileError
from hemp_reader.bitstream import ByteReader
from hemp_reader.coding.tuples.count_table import CountTable, decode_counts, encode_counts


def plain_code(count):
    """The code of a count, from the rule: the first digit, and half of those after the third."""
    code = 0
    for digits in range(1, count.bit_length() + 1):
        kept = max(digits - 3, 0) // 2
        if digits == count.bit_length():
            return 1 + code + (count >> (digits - 1 - kept)) - (1 << kept)
        code += 1 << kept
    return 0


@given(st.lists(st.integers(0, 2**36 - 1), min_size=1, max_size=20))
def test_codes_follow_the_rule_and_decode_to_their_middle(counts):
    codes = encode_counts(np.array(counts))
    assert codes.tolist() == [plain_code(count) for count in counts]
    middle = decode_counts(codes)
    assert encode_counts(middle).tolist() == codes.tolist()
    # Off by no more than two standard deviations of a count
    assert (np.abs(middle - counts) <= 2 * np.sqrt(counts)).all()


def test_codes_ascend_without_holes():
    codes = encode_counts(np.arange(5000))
    assert codes[0] == 0 and codes[1] == 1
    assert set(np.diff(codes).tolist()) == {0, 1}


tables = st.lists(
    st.tuples(st.integers(0, 500), st.integers(1, 10**6)), max_size=40, unique_by=lambda p: p[0]
)


@given(tables, st.integers(0, 1000))
def test_tables_come_back(pairs, unlisted):
    if not pairs and not unlisted:
        return
    ordered = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    cells, counts = ordered[:, 0], ordered[:, 1]
    table = CountTable.count(cells, counts, unlisted)
    reader = ByteReader(b"ab" + table.to_bytes() + b"rest", 2)
    found = CountTable.read(reader, num_cells=501, total=10**9)
    assert reader.rest() == b"rest"
    assert found.cells.tolist() == cells.tolist()
    assert found.codes.tolist() == table.codes.tolist()
    assert found.has_escape == (unlisted > 0)
    weights = found.weights()
    assert len(weights) == len(pairs) + (unlisted > 0)
    assert int(weights.sum()) == 2**24 and int(weights.min()) >= 1


def test_weights_are_proportional_to_counts():
    counts = np.array([1, 50, 3000, 70_000])
    weights = CountTable.count(np.arange(4), counts, unlisted=0).weights()
    middle = decode_counts(encode_counts(counts))
    assert np.abs(weights - 2**24 * middle / middle.sum()).max() < 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("0a", "expected number of listed cells of at most 9, found 10"),
        ("05", "expected 1 bytes of parameters of the table"),
        ("0200", "values of cells"),
        ("000001", "expected a table with an entry, found an empty one"),
        ("0103c6", "expected cells below 9, found cell 9"),  # 01 1000, 1 1: gap 9, two codes
    ],
)
def test_broken_tables(data, message):
    with pytest.raises(HempFileError) as error:
        CountTable.read(ByteReader(bytes.fromhex(data)), num_cells=9, total=100)
    assert message in str(error.value)


def test_counts_beyond_the_largest_are_refused():
    huge = CountTable(np.array([0]), np.array([0, 2**40]))
    with pytest.raises(HempFileError, match="expected codes up to"):
        CountTable.read(ByteReader(huge.to_bytes()), num_cells=9, total=100)
