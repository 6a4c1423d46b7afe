"""The context coder: identity, golden bytes, an independent decoder, hostile payloads."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemp_lightning.coding import CODERS as NUMBERS
from hemp_lightning.coding.context import payload
from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.coding.context.fast_coder import FastCoder
from hemp_lightning.coding.context.frequency_coder import FrequencyCoder
from hemp_lightning.coding.context.payload import encode_with
from hemp_lightning.quantization.transforms import to_coefficients
from hemp_reader.coding.context import counter_loop, mixing_loop, range_coder
from hemp_reader.coding.context.model_tables import SQUASH, STRETCH
from hemp_reader.coding.context.options import Options
from hemp_reader.errors import HempFileError
from tests.coding.context import reference_context
from tests.coding.context.cases import (
    CASES,
    CODERS,
    GOLDEN,
    noise,
    sparse,
)

SHAPES = [(), (0,), (3, 0, 2), (1,), (1, 1), (2, 3, 1, 2, 2), (50, 1), (1, 50)]


def decode_reference(
    data: bytes, indices: np.ndarray, num_levels: int, coder: str = "context"
) -> np.ndarray:
    number = NUMBERS[coder].number
    flat = reference_context.decode(data, indices.shape, num_levels, number)
    return np.array(flat).reshape(indices.shape)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", CASES)
def test_identity_and_reference_decoder_agree(name: str, coder: str) -> None:
    indices, num_levels = CASES[name]
    data = CODERS[coder]().encode(indices, num_levels)
    decoded = CODERS[coder]().decode(data, indices.shape, num_levels)
    assert decoded.dtype == (np.uint8 if num_levels <= 256 else np.uint16)
    np.testing.assert_array_equal(decoded, indices)
    reference = decode_reference(data, indices, num_levels, coder)
    np.testing.assert_array_equal(reference, indices)


@pytest.mark.parametrize("loops", ["compiled", "interpreted"])
@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", CASES)
def test_golden_bytes(name: str, coder: str, loops: str, request: pytest.FixtureRequest) -> None:
    if loops == "interpreted":
        request.getfixturevalue("plain_loops")
    indices, num_levels = CASES[name]
    golden = bytes.fromhex(json.loads(GOLDEN.read_text())[coder][name])
    assert CODERS[coder]().encode(indices, num_levels) == golden
    decoded = CODERS[coder]().decode(golden, indices.shape, num_levels)
    np.testing.assert_array_equal(decoded, indices)


@pytest.mark.parametrize("scan", ["row_major", "kernel", "input", "output"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("scale", [0, 2])
@pytest.mark.parametrize("coder", ["context", "frequency"])
def test_every_option_decodes_by_the_reference(
    scan: str, half: bool, binary: bool, scale: int, coder: str
) -> None:
    indices, num_levels = noise(10, (9, 3, 2, 3), 15, 0.3), 15
    options = Options(scan=scan, half=half, centre=7, binary=binary, scale=scale)
    options = replace(options, flags=not half and binary, frequencies=coder == "frequency")
    data = encode_with(indices.astype(np.uint8), num_levels, options)
    decoded = CODERS[coder]().decode(data, indices.shape, num_levels)
    np.testing.assert_array_equal(decoded, indices)
    np.testing.assert_array_equal(decode_reference(data, indices, num_levels, coder), indices)


@pytest.mark.parametrize("kernel", [(5,), (1, 4), (4, 1), (3, 5), (2, 3, 2)])
def test_frequencies_of_kernels_of_every_form_decode_by_the_reference(
    kernel: tuple[int, ...],
) -> None:
    indices = noise(14, (9, 3, *kernel), 9, 0.4)
    data = FrequencyCoder().encode(indices, 9)
    np.testing.assert_array_equal(decode_reference(data, indices, 9, "frequency"), indices)


def test_frequencies_of_like_signs_are_foreseen() -> None:
    """A bump in the middle of a kernel has frequencies 0 and 2 of opposite signs."""
    rng = np.random.default_rng(3)
    bumps = rng.normal(size=(40, 20, 1, 1)) * np.outer([0.5, 1, 0.5], [0.5, 1, 0.5])
    found = to_coefficients((bumps + 0.2 * rng.normal(size=(40, 20, 3, 3))).astype(np.float32))
    indices = np.clip(np.rint(2 * found), -8, 8).astype(int) + 8
    size = len(ContextCoder().encode(indices, 17))
    assert len(FrequencyCoder().encode(indices, 17)) < 0.95 * size


def test_without_a_kernel_frequencies_change_nothing() -> None:
    indices, num_levels = CASES["linear"]
    data = ContextCoder().encode(indices, num_levels)
    assert FrequencyCoder().encode(indices, num_levels) == data


def test_pieces_of_equally_likely_indices_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    indices, num_levels = CASES["plain"]
    monkeypatch.setattr(payload, "_PIECE", 50)
    data = ContextCoder().encode(indices, num_levels)
    assert data == bytes.fromhex(json.loads(GOLDEN.read_text())["context"]["plain"])
    np.testing.assert_array_equal(ContextCoder().decode(data, indices.shape, num_levels), indices)
    np.testing.assert_array_equal(decode_reference(data, indices, num_levels), indices)


@pytest.mark.usefixtures("plain_loops")
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("num_levels", [255, 256, 257, 65535, 65536])
def test_first_and_last_levels_at_the_ends_of_dtypes(num_levels: int, half: bool) -> None:
    """What the loops hold of an index is one larger with `half`: no dtype may be left by that."""
    indices = np.resize([0, num_levels - 1, num_levels // 2, num_levels // 2 - 1], (4, 5))
    options = Options(half=half, centre=num_levels // 2, binary=True, scale=9)
    for coder in (ContextCoder(), FastCoder()):
        data = encode_with(indices, num_levels, options, coder._code)
        np.testing.assert_array_equal(coder.decode(data, (4, 5), num_levels), indices)
        reference = decode_reference(data, indices, num_levels, coder.name)
        np.testing.assert_array_equal(reference, indices)


@pytest.mark.parametrize("shape", [(), (60, 1), (1, 60), (9, 3, 1, 1), (3, 8, 4, 1), (8, 3, 1, 4)])
def test_narrow_shapes_decode_by_the_reference(shape: tuple[int, ...]) -> None:
    indices = noise(12, shape, 9, 0.4)
    for name, coder in CODERS.items():
        data = coder().encode(indices, 9)
        reference = decode_reference(data, indices, 9, name)
        np.testing.assert_array_equal(reference, indices)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_levels", [1, 2, 3, 16, 256, 257, 65536])
def test_identity_for_every_shape_and_number_of_levels(
    shape: tuple[int, ...], num_levels: int
) -> None:
    indices = np.random.default_rng(0).integers(0, num_levels, shape)
    for coder in CODERS.values():
        data = coder().encode(np.asarray(indices), num_levels)
        decoded = coder().decode(data, shape, num_levels)
        assert decoded.shape == shape
        np.testing.assert_array_equal(decoded, indices)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_identity_for_any_content(data: st.DataObject) -> None:
    num_levels = data.draw(st.sampled_from([2, 3, 4, 7, 16, 41, 83, 300, 65536]))
    shape = tuple(data.draw(st.lists(st.integers(1, 6), max_size=5)))
    entries = st.integers(0, num_levels - 1) | st.just(num_levels // 2) | st.just(num_levels - 1)
    size = math.prod(shape)
    flat = data.draw(st.lists(entries, min_size=size, max_size=size))
    indices = np.array(flat, np.int64).reshape(shape)
    for coder in CODERS.values():
        payload = coder().encode(indices, num_levels)
        np.testing.assert_array_equal(coder().decode(payload, shape, num_levels), indices)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([2, 7, 64, 3000]))
def test_hostile_payloads_decode_in_range_or_are_refused(data: bytes, num_levels: int) -> None:
    shape = (9, 8, 2, 2)
    for coder in CODERS.values():
        try:
            indices = coder().decode(data, shape, num_levels)
        except HempFileError:
            continue
        assert indices.shape == shape and int(indices.max()) < num_levels


def test_a_payload_has_one_form() -> None:
    indices, num_levels = CASES["linear"]
    data = ContextCoder().encode(indices, num_levels)
    with pytest.raises(HempFileError, match="a last byte that is not 0"):
        ContextCoder().decode(data + b"\0", indices.shape, num_levels)
    with pytest.raises(HempFileError, match="the end of the payload, found 94 bytes"):
        ContextCoder().decode(data + b"\1" * 100, indices.shape, num_levels)
    with pytest.raises(HempFileError, match="an empty payload"):
        ContextCoder().decode(b"\1", (0,), num_levels)


def test_tiny_tensors_cost_next_to_nothing() -> None:
    silent = np.full(10, 3)
    assert ContextCoder().encode(silent, 7) == b""
    assert len(ContextCoder().encode(np.full((500, 800), 3), 7)) <= 4
    silent[4] = 5
    assert len(ContextCoder().encode(silent, 7)) <= 3


def test_random_indices_cost_their_entropy() -> None:
    rng = np.random.default_rng(1)
    uniform = rng.integers(0, 11, (100, 300))
    assert len(ContextCoder().encode(uniform, 11)) <= 1.0001 * 30000 * math.log2(11) / 8 + 1
    skewed = rng.choice(5, (400, 500), p=[0.02, 0.08, 0.8, 0.08, 0.02])
    share = np.bincount(skewed.reshape(-1)) / skewed.size
    entropy = -(share * np.log2(share)).sum() * skewed.size / 8
    assert len(ContextCoder().encode(skewed, 5)) <= 1.005 * entropy


def test_rows_and_tuples_are_learned() -> None:
    indices = sparse(11, (100, 100), 3)
    busy = np.bincount(indices[::5].reshape(-1), minlength=3) / indices[::5].size
    told_the_rows = -(busy * np.log2(busy)).sum() * indices[::5].size / 8
    assert len(ContextCoder().encode(indices, 3)) < 1.15 * told_the_rows
    pairs = np.repeat(np.random.default_rng(2).integers(0, 8, (64, 50)), 2, axis=1)
    assert len(ContextCoder().encode(pairs, 8)) < 0.75 * pairs.size * 3 / 8


def test_threads_make_the_same_bytes() -> None:
    cases = list(CASES.values()) * 3
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda case: ContextCoder().encode(*case), cases))
    assert threaded == [ContextCoder().encode(*case) for case in cases]


@pytest.mark.parametrize("coder", CODERS)
def test_other_threads_run_meanwhile(coder: str) -> None:
    """The loops release Python's lock; with it the main thread would stand still."""
    indices = np.tile(noise(13, (50, 200), 16, 0.3), (20, 10)).astype(np.uint8)
    data = CODERS[coder]().encode(indices, 16)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(CODERS[coder]().decode, data, indices.shape, 16)
        rounds = 0
        while not future.done():
            rounds += 1
    np.testing.assert_array_equal(future.result(), indices)
    assert rounds > 1000


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="`indices` must be an integer array"):
        ContextCoder().encode(np.zeros(3), 4)
    with pytest.raises(ValueError, match=r"`indices` must lie in \[0, 4\)"):
        ContextCoder().encode(np.array([4]), 4)


def test_tables_are_the_logistic_function() -> None:
    x = np.arange(-3071, 3072)
    expected = 65536 / (1 + np.exp(-x / 256))
    assert np.abs(SQUASH - expected).max() <= 1
    p = np.arange(1, 65535)
    middle = np.abs(p - 32768) < 32000
    inverse = 256 * np.log(p / (65536 - p))
    assert np.abs(STRETCH[1:65535] - inverse)[middle].max() <= 2


@pytest.mark.slow
def test_warm_up_compiles_everything() -> None:
    """In a process of its own, where nothing else has compiled the loops before."""
    script = """
import numpy as np
from hemp_lightning.coding import CODERS as NUMBERS
from hemp_reader.coding.context import counter_loop
from hemp_reader.coding.context import mixing_loop
from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.coding.context.warm_up import warm_up
from hemp_lightning.coding.context.fast_coder import FastCoder
warm_up()
loops = [mixing_loop._LOOPS[mode] for mode in range(3)]
loops += [counter_loop._LOOPS[mode] for mode in range(3)]
compiled = [len(getattr(loop, "signatures", [None])) for loop in loops]
assert compiled == [2 if hasattr(loops[0], "signatures") else 1] * 6, compiled
for coder in (ContextCoder(), FastCoder()):
    for size in (200, 300):
        coder.rate(np.arange(size), size)
        coder.decode(coder.encode(np.arange(size), size), (size,), size)
assert compiled == [len(getattr(loop, "signatures", [None])) for loop in loops]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.usefixtures("plain_loops")
@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", ["linear", "plain"])
def test_a_buffer_that_is_too_small_is_doubled(
    name: str, coder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a weight could take so much that the first buffer never does; no byte changes."""
    sizes = []
    zeros = np.zeros
    for module in (range_coder, mixing_loop, counter_loop):
        monkeypatch.setattr(module, "MARGIN", 20_000)

    def counted(shape: object, dtype: object = float) -> np.ndarray:
        if dtype is np.uint8 and isinstance(shape, int):
            sizes.append(shape)
        return zeros(shape, dtype)

    monkeypatch.setattr(payload.np, "zeros", counted)
    indices, num_levels = CASES[name]
    golden = bytes.fromhex(json.loads(GOLDEN.read_text())[coder][name])
    assert CODERS[coder]().encode(indices, num_levels) == golden
    assert any(b == 2 * a for a, b in itertools.pairwise(sizes)) and max(sizes) > 20_000


def test_the_fast_coder_refuses_what_it_never_writes() -> None:
    options = Options(flags=True, centre=3)
    data = encode_with(np.full((5, 6), 2, np.uint8), 7, options)
    assert (ContextCoder().decode(data, (5, 6), 7) == 2).all()
    with pytest.raises(HempFileError, match="no flags of silent rows, found flags"):
        FastCoder().decode(data, (5, 6), 7)
