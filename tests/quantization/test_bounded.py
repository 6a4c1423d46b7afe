"""As many levels as keep the error below a bound."""

import numpy as np
import pytest
import torch

from hemp_lightning.quantization import BoundedQuantizer, LloydMaxQuantizer, UniformQuantizer
from hemp_lightning.quantization.bounded import relative_error


def numpy_error(weights, quantized):
    difference = weights.double().numpy() - quantized.double().numpy()
    return np.linalg.norm(difference) / np.linalg.norm(weights.double().numpy())


@pytest.mark.parametrize("bound", [0.1, 0.01, 0.002])
@pytest.mark.parametrize("quantizer", ["uniform", "lloyd_max"])
def test_the_bound_holds(bound, quantizer):
    weights = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    codebook = BoundedQuantizer(bound, quantizer).fit(weights)
    error = numpy_error(weights, codebook.quantize(weights))
    assert error <= bound
    fewer = UniformQuantizer(max(2, codebook.num_levels // 2)).fit(weights)
    assert quantizer != "uniform" or numpy_error(weights, fewer.quantize(weights)) > bound


def test_channels_of_small_weights_keep_their_digits():
    weights = torch.randn(32, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    weights *= torch.logspace(-2, 0, 32).view(-1, 1, 1, 1)
    quantized = BoundedQuantizer(0.02).fit(weights).quantize(weights)
    errors = [numpy_error(w, q) for w, q in zip(weights, quantized, strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) <= 0.01  # half of it, for few weights a channel


def test_few_values_are_kept_exactly():
    weights = torch.tensor([0.1, 0.0, -7.3])[torch.randint(0, 3, (20, 20))]
    assert torch.equal(BoundedQuantizer(0.3).fit(weights).quantize(weights), weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_error": 0.0}, "`max_error` must lie between 0 and 1; found 0.0"),
        ({"quantizer": "x"}, "`quantizer` must be one of uniform, .*; found 'x'"),
        ({"num_levels": 1}, "`num_levels` must be from 2 to 65536; found 1"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BoundedQuantizer(**arguments)


def test_relative_error_counts_what_is_finite():
    tensor = torch.tensor([3.0, -torch.inf, 4.0])
    assert relative_error(tensor, torch.tensor([3.0, -torch.inf, 3.0])) == pytest.approx(0.2)
    assert relative_error(torch.arange(3), torch.arange(3)) == 0


@pytest.mark.parametrize("num_levels", [8, 64, 200])
def test_lloyd_max_is_never_worse_than_the_grid(num_levels):
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(1500, generator=generator)
    for weights in (normal, normal**3, torch.cat([normal, torch.tensor([40.0])])):
        lloyd, uniform = (
            numpy_error(weights, kind(num_levels).fit(weights).quantize(weights))
            for kind in (LloydMaxQuantizer, UniformQuantizer)
        )
        assert lloyd <= 1.0001 * uniform
