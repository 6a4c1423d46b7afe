"""Blocks: every method gives back the same words, and the shortest is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hemp_lightning import HempFileError
from hemp_lightning.file.format.blocks import write_block
from hemp_lightning.file.format.storages import EXACT, to_words
from hemp_reader.bitstream import ByteReader, golomb_encode
from hemp_reader.format.blocks import read_block
from hemp_reader.format.storages import HALF, STORAGES

INT64, UINT8, BOOL = EXACT[torch.int64], EXACT[torch.uint8], EXACT[torch.bool]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(STORAGES)))
def test_words_come_back(data, number):
    storage = STORAGES[number]
    entries = st.integers(0, 1 if storage is BOOL else 256**storage.word - 1)
    words = data.draw(arrays(f"u{storage.word}", st.integers(1, 80), elements=entries))
    block = write_block(words, storage)
    assert len(block) <= 1 + words.nbytes
    reader = ByteReader(block + b"x")
    assert (read_block(reader, len(words), storage) == words).all()
    assert reader.rest() == b"x"


@pytest.mark.parametrize(
    ("values", "most"),
    [
        (torch.tensor(1200), 5),  # one counter
        (torch.full((60,), 12_000), 14),  # sixty equal ones
        (torch.arange(512), 200),  # positions
        (torch.tensor([2**63 - 1, -(2**63)]), 17),  # as they are
        (torch.tensor([-(2**40), 2**40]), 17),
        (torch.randn(5000).half(), 9400),  # sign and exponent are far from random
        (torch.zeros(5000).half(), 12),
        (torch.arange(5000) % 50 == 0, 110),
    ],
)
def test_sizes(values, most):
    torch.manual_seed(0)
    words = to_words(values, EXACT[values.dtype])
    block = write_block(words, EXACT[values.dtype])
    assert len(block) <= most
    assert (read_block(ByteReader(block), len(words), EXACT[values.dtype]) == words).all()


def test_bytes_as_they_are_are_little_endian():
    words = np.array([0x0102, 0xA0B0], np.uint16)
    assert write_block(words, HALF) == bytes.fromhex("000201b0a0")


@pytest.mark.parametrize(
    ("block", "count", "storage", "message"),
    [
        ("", 1, INT64, "expected 1 bytes of method of a block"),
        ("03", 1, INT64, "byte 0: expected a method for int64, found 3"),
        ("02", 1, HALF, "expected a method for float32 as float16, found 2"),
        ("02", 2**16 + 1, INT64, "expected a method for int64, found 2"),
        ("000102", 2, BOOL, "byte 0: expected entries 0 and 1 of a bool tensor, found 2"),
        ("0000", 1, HALF, "expected 2 bytes of entries, found 1 bytes to the end"),
        ("0103", 1, UINT8, "byte 1: expected coder 0, 1 or 2 of a plane, found 3"),
        ("0100", 1, UINT8, "expected 1 bytes of a plane, found 0 bytes to the end"),
        ("010105", 1, UINT8, "expected 5 bytes of a plane, found 0 bytes to the end"),
        ("01010100", 9, UINT8, "byte 4: expected 1 bytes of number of listed cells"),
        ("020003", 1, UINT8, "zero bits up to the next byte"),
    ],
)
def test_broken_blocks(block, count, storage, message):
    with pytest.raises(HempFileError) as error:
        read_block(ByteReader(bytes.fromhex(block)), count, storage)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("steps", "storage"),
    [
        ([256], UINT8),  # 128
        ([2 * 255 + 2], UINT8),  # 256
        ([1], UINT8),  # -1
        ([2**60] * 7, INT64),  # sums beyond 2^60
    ],
)
def test_entries_out_of_range(steps, storage):
    bits = golomb_encode(np.array(steps), 0)
    data = b"\x02\x00" + np.packbits(bits, bitorder="little").tobytes()
    if steps == [256]:
        assert read_block(ByteReader(data), 1, storage).tolist() == [128]
        return
    with pytest.raises(HempFileError, match=r"expected entries that fit u?int(8|64), found larger"):
        read_block(ByteReader(data), len(steps), storage)
