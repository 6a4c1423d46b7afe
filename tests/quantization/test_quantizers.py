"""Quantizers against hand-made cases, exhaustive search and the conditions of optimality."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from hemp_lightning.quantization.quantizers import (
    Codebook,
    EntropyConstrainedQuantizer,
    LloydMaxQuantizer,
    UniformQuantizer,
    get_quantizer,
)

ALL = [UniformQuantizer, LloydMaxQuantizer, EntropyConstrainedQuantizer]


def laplace(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(0, 0.02, count)).float()


def test_assign_by_hand():
    codebook = Codebook(torch.tensor([-1.0, 0.0, 0.5]), torch.tensor([-0.25, 0.25]))
    weights = torch.tensor([[-9.0, -0.25, -0.26], [0.25, 0.24, 9.0]])
    assert codebook.assign(weights).tolist() == [[0, 1, 0], [2, 1, 2]]
    assert codebook.quantize(weights).tolist() == [[-1.0, 0.0, -1.0], [0.5, 0.0, 0.5]]


@pytest.mark.parametrize("loops", ["compiled", "interpreted"])
@pytest.mark.parametrize("num_levels", [1, 2, 3, 16, 256, 257])
def test_quantize_is_the_level_numpy_finds(num_levels, loops, request):
    weights = torch.randn(100_000, generator=torch.Generator().manual_seed(1)).view(100, 10, 100)
    if loops == "interpreted":
        request.getfixturevalue("plain_loops")
        weights = weights[:2].clone()
    levels = np.sort(np.random.default_rng(num_levels).normal(size=num_levels)).astype(np.float32)
    codebook = Codebook(torch.from_numpy(levels))
    weights.view(-1)[: num_levels - 1] = codebook.thresholds  # on the border: up
    cells = np.searchsorted(codebook.thresholds.numpy(), weights.numpy(), side="right")
    assert np.array_equal(codebook.quantize(weights).numpy(), levels[cells])
    assert np.array_equal(codebook.assign(weights).numpy(), cells)


@pytest.mark.parametrize("num_levels", [7, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_quantize_into_a_tensor(num_levels, dtype):
    levels = np.linspace(-2, 2, num_levels).astype(np.float32)
    codebook = Codebook(torch.from_numpy(levels))
    weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(2)).to(dtype)
    weights[3, 4] = float("nan")
    cells = np.searchsorted(codebook.thresholds.numpy(), weights.float().numpy(), side="right")
    expected = torch.from_numpy(levels[cells.clip(0, num_levels - 1)]).to(dtype)
    expected[3, 4] = float("nan")
    for out in (torch.zeros_like(weights), torch.zeros(30, 40, dtype=dtype).T, weights):
        found = codebook.quantize(weights, out=out)  # the last of them in place
        assert found.data_ptr() == out.data_ptr() and found.shape == out.shape
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


def test_quantize_into_a_tensor_of_another_shape_or_device():
    codebook = Codebook(torch.tensor([-1.0, 1.0]))
    for out in (torch.zeros(3), torch.zeros(2, 2, device="meta")):
        with pytest.raises(ValueError, match=r"`out` must have the shape \(2, 2\) .* cpu; found"):
            codebook.quantize(torch.zeros(2, 2), out=out)


def test_quantize_with_merged_thresholds():
    codebook = Codebook(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.5]))
    assert codebook.quantize(torch.tensor([0.4, 0.5, 0.6])).tolist() == [0.0, 2.0, 2.0]


def test_lloyd_max_conditions_hold():
    weights = laplace(50_000)
    codebook = LloydMaxQuantizer(16).fit(weights)
    indices = codebook.assign(weights)
    assert codebook.num_levels == 16
    for k, level in enumerate(codebook.levels):
        mean = weights[indices == k].double().mean()
        assert level == 0 or abs(level - mean) < 1e-6
    middle = (codebook.levels[1:] + codebook.levels[:-1]) / 2
    torch.testing.assert_close(codebook.thresholds, middle)
    assert (codebook.levels == 0).sum() == 1


def test_lloyd_max_finds_the_best_partition_of_few_weights():
    weights = torch.tensor([-1.0, -0.9, -0.2, 0.1, 0.15, 0.9, 1.6, 1.7])
    best = min(
        sum(((part - part.mean()) ** 2).sum() for part in weights.tensor_split(cut))
        for cut in combinations(range(1, 8), 3)
    )
    codebook = LloydMaxQuantizer(4, keep_zero=False).fit(weights)
    found = ((weights - codebook.quantize(weights)) ** 2).sum()
    assert found == pytest.approx(best.item(), rel=1e-5)


def cost(codebook, weights, price):
    """Error in units of the variance, plus the price of the entropy of the indices."""
    indices = codebook.assign(weights)
    p = np.bincount(indices) / len(weights)
    bits = -(p[p > 0] * np.log2(p[p > 0])).sum()
    error = (weights - codebook.reconstruct(indices)).square().mean() / weights.var()
    return error.item() + price * bits


def test_entropy_constrained_has_least_cost_of_the_two():
    weights, price = laplace(20_000), 0.1
    plain = LloydMaxQuantizer(16).fit(weights)
    constrained = EntropyConstrainedQuantizer(16, lambda_rate=price).fit(weights)
    assert cost(constrained, weights, price) < 0.95 * cost(plain, weights, price)
    assert constrained.num_levels < 16


def test_entropy_constrained_does_not_fall_for_one_level_among_clusters():
    rng = np.random.default_rng(0)
    centres = rng.choice([-1.0, 0.0, 1.0], 900)
    weights = torch.tensor(centres + 0.1 * rng.normal(size=900), dtype=torch.float32)
    price = 0.5  # of the variance, 2/3; the entropy of three levels alike is log2(3)
    three = 0.01 / (2 / 3) + price * np.log2(3)
    for num_levels in (3, 5, 9):
        codebook = EntropyConstrainedQuantizer(num_levels, lambda_rate=price).fit(weights)
        assert cost(codebook, weights, price) < 1.05 * three < 0.9  # one level alone costs 1


@pytest.mark.parametrize("quantizer", ALL)
@pytest.mark.parametrize(
    "weights",
    [
        [0.0],
        [0.3],
        [-2.0] * 5,
        [0.0] * 4 + [1.0],
        [1.0, 2.0, 3.0],
        [1.0, 1.0 + 1e-7],
        [1e18, -1e18],
    ],
)
def test_small_and_constant_tensors(quantizer, weights):
    weights = torch.tensor(weights)
    codebook = quantizer(16).fit(weights)
    assert codebook.num_levels <= 16
    if quantizer is LloydMaxQuantizer:
        assert torch.equal(codebook.quantize(weights), weights)
    if len(set(weights.tolist())) == 1:
        assert codebook.levels.tolist() == weights[:1].tolist()


@pytest.mark.parametrize("quantizer", ALL)
def test_zero_is_kept_exactly(quantizer):
    weights = torch.cat([torch.zeros(50), laplace(1000) + 0.007])
    levels = quantizer(8).fit(weights).levels
    assert (levels == 0).sum() == 1
    assert not (quantizer(8, keep_zero=False).fit(weights.abs() + 0.1).levels == 0).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("huge", [-1e10, -1e17, -3e38])
@pytest.mark.parametrize(
    "quantizer",
    [
        LloydMaxQuantizer(4),
        LloydMaxQuantizer(4, keep_zero=False),
        EntropyConstrainedQuantizer(4),
        EntropyConstrainedQuantizer(4, lambda_rate=1e-30, keep_zero=False),
    ],
)
def test_one_huge_weight_leaves_each_level_among_its_weights(quantizer, huge):
    weights = torch.tensor([huge, *(1e-30 * k for k in range(1, 6)), *(1e-3,) * 40, 1.0])
    codebook = quantizer.fit(weights)
    indices = codebook.assign(weights)
    assert codebook.num_levels >= 2 and indices.max() == codebook.num_levels - 1
    for index, level in enumerate(codebook.levels):
        cell = weights[indices == index]
        assert (quantizer.keep_zero and level == 0) or cell.min() <= level <= cell.max()


def test_refit_drops_levels_that_nobody_uses():
    init = Codebook(torch.tensor([-5.0, -1.0, 0.0, 1.0, 5.0]))
    weights = torch.tensor([-1.2, -0.8, -0.1, 0.0, 0.1, 0.8, 0.9])
    assert LloydMaxQuantizer(5).fit(weights, init).num_levels == 3


def test_uniform_levels_are_equidistant_and_span():
    weights = laplace(1000)
    levels = UniformQuantizer(17, symmetric=True).fit(weights).levels
    top = weights.abs().max()
    expected = torch.linspace(-1, 1, 17) * top
    torch.testing.assert_close(levels, expected, atol=1e-7, rtol=1e-5)


def test_half_precision_moves_nothing_noticeable():
    codebook = LloydMaxQuantizer(16).fit(laplace(5000))
    half = codebook.half_precision()
    assert torch.equal(half.levels, half.levels.half().float())
    assert (half.levels - codebook.levels).abs().max() < codebook.levels.diff().min() / 100
    close = Codebook(torch.tensor([1.0, 1.0001, 1.0002]))
    assert close.half_precision() is close


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(bad):
    with pytest.raises(ValueError, match="`weights` must be finite; found 1 of 3"):
        LloydMaxQuantizer(4).fit(torch.tensor([0.0, bad, 1.0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LloydMaxQuantizer(1), "`num_levels` must be from 2 to 65536; found 1"),
        (lambda: get_quantizer("k_means"), "`quantizer` must be one of uniform, lloyd_max"),
        (lambda: EntropyConstrainedQuantizer(4, lambda_rate=-1.0), "`lambda_rate` must be"),
        (lambda: Codebook(torch.tensor([1.0, 1.0])), "strictly ascending"),
        (lambda: Codebook(torch.zeros(1), torch.zeros(1)), "`thresholds` must have shape"),
        (lambda: LloydMaxQuantizer(4).fit(torch.zeros(0)), "at least one entry"),
        (lambda: LloydMaxQuantizer(4, max_iterations=0), "`max_iterations` must be at least 1"),
        (lambda: Codebook(torch.zeros(2, 2)), "`levels` must have shape"),
        (lambda: Codebook(torch.zeros(0)), "`levels` must have shape"),
        (lambda: Codebook(torch.arange(3.0), torch.tensor([2.0, 1.0])), "finite and ascending"),
        (lambda: Codebook(torch.arange(2.0), torch.tensor([torch.nan])), "finite and ascending"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LloydMaxQuantizer(True), "`num_levels` must be an integer; found True"),
        (lambda: UniformQuantizer(2.5), "`num_levels` must be an integer; found 2.5"),
        (lambda: get_quantizer(3), "an object with `num_levels` and `fit.*; found int"),
        (lambda: UniformQuantizer(4).fit(torch.zeros(3).int()), "floating tensor; found torch.int"),
    ],
)
def test_types_are_told(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_empty_cells_are_seeded_again_and_iterations_end():
    # the cube root of the density leaves cells empty between far clusters
    weights = torch.cat([torch.linspace(0.9, 1.1, 50), torch.linspace(99.0, 101.0, 50), laplace(9)])
    book = LloydMaxQuantizer(12).fit(weights)
    counts = torch.bincount(book.assign(weights).reshape(-1).long(), minlength=book.num_levels)
    assert book.num_levels == 12 and int((counts == 0).sum()) <= 1  # 0 is held, used or not
    stopped = LloydMaxQuantizer(12, max_iterations=1).fit(weights)
    worse = (weights - stopped.quantize(weights)).square().mean()
    assert worse >= (weights - book.quantize(weights)).square().mean()


@pytest.mark.parametrize("num_levels", [1, 2, 3, 40])
def test_nan_is_not_quantized_away(num_levels):
    book = Codebook(torch.linspace(-1, 1, num_levels))
    weights = torch.tensor([float("nan"), -float("inf"), 0.9, float("inf")] * 9)
    found = book.quantize(weights)
    assert found.isnan().tolist() == weights.isnan().tolist()
    finite = ~weights.isnan()
    assert torch.equal(found[finite], book.reconstruct(book.assign(weights[finite])))


def test_an_object_with_fit_is_a_quantizer():
    own = LloydMaxQuantizer(5)
    assert get_quantizer(own) is own


def test_weights_in_channels_last_are_assigned_without_a_warning():
    # in a process of its own: torch warns once, at the first such call
    code = (
        "import torch, warnings; warnings.simplefilter('error')\n"
        "from hemp_lightning.quantization.quantizers import Codebook\n"
        "weights = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)\n"
        "indices = Codebook(torch.linspace(-1, 1, 5)).assign(weights)\n"
        "assert torch.equal(indices, ((weights + 1.25) / 0.5).floor().clamp(0, 4).long())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
