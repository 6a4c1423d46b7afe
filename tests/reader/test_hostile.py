"""Broken files: without numba the reader refuses the very ones that the main package refuses."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

import hemp_lightning
import hemp_reader
from hemp_lightning import HempFileError
from hemp_reader import cosines
from hemp_reader.coding.context import decoder
from hemp_reader.coding.tuples import ans_stream
from tests.file.test_mutations import MAX_BYTES, SEEDS, TOUCHED, mutate, reseal

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def plain_reader(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A function that lets the reader do without compiled loops, until it is undone."""
    monkeypatch.setattr(ans_stream, "IS_COMPILED", False)
    monkeypatch.setattr(cosines, "IS_COMPILED", False)
    monkeypatch.setattr(decoder, "IS_COMPILED", False)
    return monkeypatch


def outcome(read, source) -> object:  # type: ignore[no-untyped-def]
    """The words of the refusal, or bytes by name."""
    try:
        found = read(source, max_bytes=MAX_BYTES, threads=1)
    except HempFileError as error:
        return error.offset, error.expected, error.found
    arrays = {}
    for name, entries in found.items():
        if isinstance(entries, torch.Tensor):
            if entries.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
                entries = entries.float()
            if entries.dtype == torch.complex32:
                entries = entries.to(torch.complex64)
            entries = entries.numpy()
        arrays[name] = (entries.shape, np.nan_to_num(entries).tobytes())
    return arrays


def compare(count: int, seed: int, folder: Path, patches: pytest.MonkeyPatch) -> int:
    """Read mutants both ways; how many were refused."""
    rng = random.Random(seed)
    originals = [path.read_bytes() for path in SEEDS]
    mutants = [mutate(rng.choice(originals), rng) for _ in range(count)]
    mutants[1::2] = map(reseal, mutants[1::2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plain = [outcome(hemp_reader.load, mutant) for mutant in mutants]
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < TOUCHED, f"the process grew by {grown} bytes"
    patches.undo()
    refused, path = 0, folder / "mutant.hemp"
    for number, mutant in enumerate(mutants):
        path.write_bytes(mutant)
        assert outcome(hemp_lightning.load, path) == plain[number], f"mutant {number} of {seed}"
        refused += isinstance(plain[number], tuple)
    return refused


@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:overflow", "ignore:invalid value")
def test_mutants_are_refused_by_both(tmp_path: Path, plain_reader: pytest.MonkeyPatch) -> None:
    assert 400 < compare(800, 5, tmp_path, plain_reader) < 800


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:overflow", "ignore:invalid value")
def test_many_mutants_are_refused_by_both(tmp_path: Path, plain_reader: pytest.MonkeyPatch) -> None:
    assert compare(20_000, 6, tmp_path, plain_reader) > 10_000


@pytest.mark.usefixtures("plain_reader")
@pytest.mark.parametrize("name", ["version1_lenet", "version3_transform"])
def test_every_flipped_bit_and_every_cut_is_noticed(name: str) -> None:
    data = (DATA / f"{name}.hemp").read_bytes()
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(HempFileError):
            hemp_reader.load(bytes(flipped))
    for size in range(len(data)):
        with pytest.raises(HempFileError):
            hemp_reader.load(data[:size])
    hemp_reader.verify(data)
