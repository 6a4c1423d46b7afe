"""Codebooks of coefficients: levels of cosines, weights outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hemp_lightning import load, save
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.transforms import to_coefficients
from hemp_reader.cosines import to_weights

LEVELS = torch.tensor([-1.0, -0.25, 0.0, 0.5])
BOOK = Codebook(LEVELS, transform="dct")


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_it_assigns_coefficients_and_gives_weights_back():
    weights = drawn(6, 2, 3, 3)
    coefficients = to_coefficients(weights.numpy())
    indices = abs(coefficients[..., None] - LEVELS.numpy()).argmin(-1)
    np.testing.assert_array_equal(BOOK.assign(weights).numpy(), indices)
    wanted = to_weights(LEVELS.numpy()[indices])
    assert BOOK.reconstruct(torch.from_numpy(indices)).numpy().tobytes() == wanted.tobytes()
    assert BOOK.quantize(weights).numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_and_layouts(dtype):
    weights = drawn(6, 2, 3, 3).to(dtype).to(memory_format=torch.channels_last)
    out = torch.empty_like(weights)
    BOOK.quantize(weights, out=out)
    assert out.equal(BOOK.quantize(weights).to(dtype))


def test_it_writes_over_its_input():
    weights = drawn(4, 3, 5)
    wanted = BOOK.quantize(weights)
    assert BOOK.quantize(weights, out=weights).equal(wanted)


def test_copies_keep_the_transform():
    book = Codebook(LEVELS + 0.00001, transform="dct")
    assert book.to("cpu").transform == book.half_precision().transform == "dct"
    assert book.plain().transform == "none"
    assert book.plain().thresholds.equal(book.thresholds)


def test_unknown_transforms_are_refused():
    with pytest.raises(ValueError, match="`transform` must be one of none, dct; found 'fft'"):
        Codebook(LEVELS, transform="fft")


def test_levels_whose_sums_could_be_infinite_are_refused():
    with pytest.raises(ValueError, match=r"`levels` of coefficients must be at most 7.9"):
        Codebook(torch.tensor([0.0, 1e30]), transform="dct")
    assert Codebook(torch.tensor([0.0, 1e30])).num_levels == 2


def test_files_refuse_a_transform_of_what_has_no_kernels(tmp_path):
    with pytest.raises(ValueError, match=r"`codebooks\['w'\]` must have the transform 'none'"):
        save({"w": torch.ones(3, 3)}, tmp_path / "x.hemp", codebooks={"w": BOOK})


@pytest.mark.parametrize("cells", ["nearest", "priced"])
def test_files_hold_the_weights_that_it_gives(tmp_path, cells):
    weights = drawn(20, 4, 3, 3)
    summary = save({"w": weights}, tmp_path / "x.hemp", codebooks={"w": BOOK}, cells=cells)
    found = load(tmp_path / "x.hemp")["w"]
    error = (found - weights).norm() / weights.norm()
    assert summary.tensors[0].relative_error == pytest.approx(float(error), rel=1e-5)
    assert summary.tensors[0].transform == "dct"
    assert found.equal(BOOK.quantize(weights)) == (cells == "nearest")
