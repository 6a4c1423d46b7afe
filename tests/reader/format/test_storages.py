"""Storages: tolerance of short floats, exact words of every dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hemp_lightning.file.format.storages import EXACT, fits, has_nan, tensor_of, to_words
from hemp_reader.format.storages import BRAIN, FLOAT32, HALF, STEPS, STORAGES, widened


def test_numbers_never_change():
    assert sorted(STORAGES) == list(range(21))
    assert (
        STORAGES[0] is FLOAT32
        and STORAGES[1] is HALF
        and STORAGES[19] is BRAIN
        and STORAGES[20] is STEPS
    )
    assert STORAGES[8].dtype == "int64" and STORAGES[10].dtype == "bool"


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_words_hold_every_bit(dtype):
    generator = np.random.default_rng(0)
    high = 2 if dtype == torch.bool else 256
    data = generator.integers(0, high, 24 * dtype.itemsize).astype(np.uint8)
    tensor = torch.from_numpy(data).view(dtype).reshape(2, 3, 4)
    words = to_words(tensor, EXACT[dtype])
    little = words.astype(words.dtype.newbyteorder("<"))
    assert little.tobytes() == data.tobytes()
    found = tensor_of(widened(words, EXACT[dtype]), EXACT[dtype].dtype, (2, 3, 4))
    assert found.dtype == dtype and found.shape == (2, 3, 4)
    assert found.reshape(-1).view(torch.uint8).numpy().tobytes() == data.tobytes()


@pytest.mark.parametrize(
    ("entries", "half", "brain"),
    [
        ([1.0, 0.1, 1e-3], True, True),
        ([65_504.0], True, True),
        ([65_520.0], False, True),  # rounds to infinity in float16
        ([3.4e38], False, False),  # and in bfloat16
        ([1.0, 1e-8], True, True),  # far below the largest
        ([1e-8, 2e-8], False, True),  # subnormal in float16, nothing larger beside them
        ([float("inf"), -float("inf"), 1.0], True, True),
        ([0.0, -0.0], True, True),
        ([], True, True),
    ],
)
def test_tolerance(entries, half, brain):
    tensor = torch.tensor(entries)
    assert fits(tensor, HALF) is half
    assert fits(tensor, BRAIN) is brain
    assert fits(tensor, FLOAT32) is True


def test_errors_stay_within_what_is_promised():
    tensor = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for storage, unit in ((HALF, 2.0**-11), (BRAIN, 2.0**-8)):
        assert fits(tensor, storage)
        held = tensor_of(widened(to_words(tensor, storage), storage), "float32", (10_000,))
        error = (held.double() - tensor.double()).abs()
        allowed = torch.maximum(unit * tensor.abs(), 2.0**-22 * tensor.abs().max()).double()
        assert (error <= allowed).all() and error.max() > 0


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_nan_is_seen_in_every_dtype(dtype):
    if dtype.is_floating_point or dtype.is_complex:
        assert has_nan(torch.tensor([1.0, float("nan")]).to(dtype))
    assert not has_nan(torch.tensor([1.0, 0.0]).to(dtype))
