"""The entropy term against a table of all L^n cells, SciPy's entropy, and finite differences."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from hemp_lightning.entropy.formula import (
    entropy_and_gradients,
    index_entropy,
    network_entropy,
    soft_entropy,
)
from hemp_reader.scan_order import SCANS
from tests.entropy.brute_force import (
    BACKENDS,
    UNEVEN,
    brute_force_bits,
    brute_force_rate,
    some_weights,
)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 24, 47])
def test_value_equals_brute_force(backend, order, count):
    weights = some_weights(count)
    expected = brute_force_rate(weights.numpy(), UNEVEN.numpy(), order)
    found = soft_entropy(weights, UNEVEN, order, backend=backend)
    assert found.dtype == torch.float64
    assert abs(found.item() - expected) < 1e-10


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_gradient_equals_finite_differences(backend, order):
    weights = some_weights(23)
    _, (gradient,) = entropy_and_gradients([weights], [UNEVEN], order, backend=backend)
    step = 1e-6
    for p in range(len(weights)):
        shift = torch.zeros_like(weights)
        shift[p] = step
        difference = brute_force_rate((weights + shift).numpy(), UNEVEN.numpy(), order)
        difference -= brute_force_rate((weights - shift).numpy(), UNEVEN.numpy(), order)
        assert abs(gradient[p].item() - difference / (2 * step)) < 1e-6
    outside = (weights < UNEVEN[0]) | (weights >= UNEVEN[-1])
    assert outside.any() and (gradient[outside] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_autograd_returns_the_closed_form(backend):
    weights = some_weights(23).requires_grad_()
    (3 * soft_entropy(weights, UNEVEN, 2, backend=backend)).backward()
    _, (gradient,) = entropy_and_gradients([weights], [UNEVEN], 2, backend=backend)
    assert torch.equal(weights.grad, 3 * gradient)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_on_levels_it_is_the_counted_entropy(backend, order):
    indices = torch.from_numpy(np.random.default_rng(1).choice(5, 50, p=[0.1, 0.1, 0.5, 0.2, 0.1]))
    whole = indices[: 50 // order * order].reshape(-1, order).numpy()
    counts = np.unique(whole, axis=0, return_counts=True)[1]
    bits = len(whole) * scipy_entropy(counts, base=2)
    left = indices[whole.size :].numpy()
    if len(left):
        bits += len(left) * scipy_entropy(np.bincount(left), base=2)
    hard = index_entropy(indices, 5, order)
    assert abs(hard - bits / 50) < 1e-12
    soft = soft_entropy(UNEVEN[indices], UNEVEN, order, backend=backend)
    assert abs(soft.item() - hard) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_gradient_on_levels_is_finite_and_pulls_nowhere_empty(backend):
    weights = UNEVEN[[2, 2, 2, 2]]  # all at 0, the cell above is empty
    _, (gradient,) = entropy_and_gradients([weights], [UNEVEN], 1, backend=backend)
    # log2 p of the empty cell is -log2 4, that of the full one 0: upwards costs, per weight
    expected = -(1 / 4) / 0.15 * (-2 - 0)
    torch.testing.assert_close(gradient, torch.full((4,), expected, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_pooled_table(backend, order):
    tensors = [some_weights(count, seed=count) for count in (17, 1, 30)]
    levels = [UNEVEN, UNEVEN[1:2], UNEVEN[:3]]
    arrays, c = [t.numpy() for t in tensors], [entry.numpy() for entry in levels]
    left = [a[len(a) // order * order :] for a in arrays]
    bits = brute_force_bits(arrays, c, order) + brute_force_bits(left, c, 1)
    found = network_entropy(tensors, levels, order, scope="network", backend=backend)
    assert abs(found.item() - bits / 48) < 1e-10


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("scan", SCANS)
def test_scan_orders(backend, scan):
    weights = some_weights(4 * 3 * 2 * 2).view(4, 3, 2, 2)
    array = weights.numpy()
    o, i, k = range(4), range(3), list(product(range(2), range(2)))
    flat = {
        "row_major": [array[a, b, c, d] for a in o for b in i for c, d in k],
        "kernel": [array[a, b, c, d] for b in i for a in o for c, d in k],
        "input": [array[a, b, c, d] for a in o for c, d in k for b in i],
        "output": [array[a, b, c, d] for b in i for c, d in k for a in o],
    }[scan]
    expected = brute_force_rate(np.array(flat), UNEVEN.numpy(), 3)
    _, (gradient,) = entropy_and_gradients([weights], [UNEVEN], 3, scan=scan, backend=backend)
    assert abs(soft_entropy(weights, UNEVEN, 3, scan=scan, backend=backend) - expected) < 1e-10
    step = torch.zeros_like(weights)
    step[2, 1, 0, 1] = 1e-6
    up, down = (soft_entropy(weights + s, UNEVEN, 3, scan=scan) for s in (step, -step))
    assert abs(gradient[2, 1, 0, 1] - (up - down) / 2e-6) < 1e-6


def test_half_precision_weights_are_computed_in_float32():
    weights = torch.randn(100).bfloat16().requires_grad_()
    rate = soft_entropy(weights, UNEVEN.float(), 2)
    rate.backward()
    assert rate.dtype == weights.grad.dtype == torch.bfloat16
    exact = soft_entropy(weights.detach().float(), UNEVEN.float(), 2)
    assert rate == exact.bfloat16()


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_degenerate_tensors(backend):
    single = torch.tensor([0.5])
    for weights in (torch.zeros(0), torch.zeros(5), torch.tensor(3.0)):
        rate, (gradient,) = entropy_and_gradients([weights], [single], 2, backend=backend)
        assert rate == 0 and gradient.shape == weights.shape and not gradient.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 0}, "`order` must be at least 1; found 0"),
        ({"levels": torch.tensor([1.0, 0.0])}, "`levels` must be strictly ascending"),
        ({"levels": torch.zeros(2, 2)}, r"`levels` must have shape \(num_levels,\)"),
        ({"scan": "zigzag"}, "`scan` must be one of row_major"),
        ({"backend": "fpga"}, "`backend` must be one of auto"),
        ({"order": 63}, "more than 2\\^62 cells"),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    arguments = {"weights": torch.zeros(9), "levels": torch.tensor([0.0, 1.0]), "order": 1}
    with pytest.raises(ValueError, match=message):
        soft_entropy(**(arguments | change))


def test_index_entropy_refuses_indices_out_of_range():
    with pytest.raises(ValueError, match=r"`indices` must be in \[0, 3\); found 0 to 3"):
        index_entropy(torch.tensor([0, 3]), 3, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: index_entropy(torch.zeros(3), 2, 1), ValueError, "must be integers; found float"),
        (lambda: index_entropy(torch.tensor([-1]), 2, 1), ValueError, r"in \[0, 2\); found -1 to"),
        (lambda: index_entropy(torch.zeros(3).int(), 2, True), TypeError, "`order` must be an int"),
        (lambda: index_entropy(torch.zeros(3).int(), 2, 0), ValueError, "at least 1; found 0"),
        (
            lambda: network_entropy([torch.zeros(1)], [torch.zeros(1)], 1, scope="layer"),
            ValueError,
            "`scope` must be one of tensor, network; found 'layer'",
        ),
        (lambda: network_entropy([], [], 1), ValueError, "of the same length, at least 1; found 0"),
        (
            lambda: network_entropy([torch.zeros(1)], [], 1),
            ValueError,
            "of the same length, at least 1; found 1 and 0",
        ),
        (
            lambda: soft_entropy(torch.zeros(3).int(), torch.zeros(1), 1),
            TypeError,
            "`weights` must be floating tensors; found torch.int32",
        ),
        (
            lambda: soft_entropy(torch.zeros(3), torch.zeros(0), 1),
            ValueError,
            r"`levels` must have shape \(num_levels,\), at least 1; found \(0,\)",
        ),
    ],
)
def test_arguments_of_the_wrong_kind(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("num_levels", "order"),
    [(5, 1), (64, 2), (65, 2), (257, 2), (65536, 3), (256, 8), (65536, 4), (2, 64)],
)
def test_counted_entropy_at_every_size_of_the_table(num_levels, order):
    """Counted in an array, by sorted numbers of 62 bits, and by rows where those are too few."""
    indices = np.random.default_rng(0).integers(0, num_levels, 200_000)
    indices[::3] = num_levels - 1
    indices = np.concatenate([np.tile(indices[:640], 50), indices[: 64 * 11 + 5]])
    whole = indices[: len(indices) // order * order].reshape(-1, order)
    bits = len(whole) * scipy_entropy(np.unique(whole, axis=0, return_counts=True)[1], base=2)
    left = indices[whole.size :]
    if len(left):
        bits += len(left) * scipy_entropy(np.unique(left, return_counts=True)[1], base=2)
    small = np.uint8 if num_levels <= 256 else np.uint16
    for dtype in (np.int64, small):
        found = index_entropy(torch.from_numpy(indices.astype(dtype)), num_levels, order)
        assert abs(found - bits / len(indices)) < 1e-9


def test_without_gradients_there_are_none():
    weights = some_weights(23)
    arguments = ([weights], [UNEVEN], 2)
    rate, gradients = entropy_and_gradients(*arguments, with_gradients=False)
    assert gradients == [] and rate == entropy_and_gradients(*arguments)[0]
    assert entropy_and_gradients([torch.zeros(0)], [UNEVEN], 1, with_gradients=False)[0] == 0


@pytest.mark.parametrize("levels", [[0.0, 2.0, 1.0], [0.0, 1.0, 1.0]])
def test_levels_must_ascend_everywhere(levels):
    with pytest.raises(ValueError, match="strictly ascending"):
        soft_entropy(torch.zeros(4), torch.tensor(levels), 1)


def test_indices_of_one_value_need_no_bits():
    for value in (0, 2):
        assert index_entropy(torch.full((7,), value), 3, 2) == 0
