"""Which coder a tensor gets: always the shortest, whether or not all of them ran."""

import numpy as np
import pytest

from hemp_lightning.coding import CODERS, get_coder
from hemp_lightning.coding.tuples.coder import TuplesCoder
from hemp_lightning.file.encode import shortest_payload
from hemp_lightning.file.options import FileOptions
from hemp_lightning.quantization.transforms import to_coefficients

RANDOM = np.random.default_rng(5)
PAIRS = np.repeat(np.where(RANDOM.random((100, 300)) < 0.05, 3, 1), 2, axis=1)
SETS = {
    "dense": (RANDOM.binomial(15, 0.5, (20, 10, 3, 3)), 16),
    "uniform": (RANDOM.integers(0, 16, (60, 50)), 16),
    "binomial": (RANDOM.binomial(6, 0.1, (300, 200)), 7),
    "pairs": (np.where(RANDOM.random((100, 1)) < 0.2, PAIRS, 1), 5),
    "few": (RANDOM.integers(0, 5000, 40), 5000),
    "two": (np.array([0, 1]), 2),
    "wide": (RANDOM.integers(0, 3000, 20_000), 3000),
}


@pytest.mark.parametrize("name", SETS)
def test_the_shortest_payload_is_taken(name):
    indices, num_levels = SETS[name]
    payload, number = shortest_payload(indices, num_levels, FileOptions())
    coders = [get_coder("context"), get_coder("tuples", order=2), get_coder("raw")]
    payloads = {CODERS[c.name].number: c.encode(indices, num_levels) for c in coders}
    assert payloads[number] == payload
    assert len(payload) == min(map(len, payloads.values()))


def test_a_hopeless_coder_does_not_run(monkeypatch):
    ran = []
    monkeypatch.setattr(TuplesCoder, "encode", lambda *_: ran.append(1) or b"")
    rows = np.repeat(RANDOM.integers(0, 16, (40, 1)), 100, axis=1)
    shortest_payload(rows, 16, FileOptions())
    assert not ran


@pytest.mark.parametrize("order", [2, 16])
def test_kernels_of_frequencies_have_a_coder_of_their_own(order):
    bumps = RANDOM.normal(size=(40, 20, 1, 1)) * np.outer([0.5, 1, 0.5], [0.5, 1, 0.5])
    indices = np.clip(np.rint(2 * to_coefficients(bumps.astype(np.float32))), -8, 8).astype(int) + 8
    options = FileOptions(order=order)
    payload, number = shortest_payload(indices, 17, options, "dct")
    assert number == CODERS["frequency"].number
    assert payload == get_coder("frequency").encode(indices, 17)
    assert len(payload) < len(shortest_payload(indices, 17, options)[0])


def test_another_coder_is_taken_by_its_word():
    indices, num_levels = SETS["two"]
    for name in ("tuples", "bz2", "fast"):
        _, number = shortest_payload(indices, num_levels, FileOptions(coder=name))
        assert number == CODERS[name].number


def test_tuples_too_long_to_number_concern_only_the_coder_of_tuples():
    indices, num_levels = SETS["dense"]
    payload, number = shortest_payload(indices, num_levels, FileOptions(order=16))
    assert number == CODERS["context"].number and payload
    with pytest.raises(ValueError, match="`order` must be at most 15 with 16 levels"):
        shortest_payload(indices, num_levels, FileOptions(coder="tuples", order=16))
