"""Bits and gradients of known code lengths: the compiled loop against torch and the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hemp_lightning.entropy import lengths as module
from hemp_lightning.entropy.context_lengths import _plain
from hemp_lightning.entropy.lengths import bits_and_gradient
from hemp_lightning.ground.threads import PART


def problem(num_levels, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randn(num_levels, generator=generator).sort().values
    weights = torch.randn(shape, generator=generator) * 1.5
    weights.view(-1)[::5] = levels[num_levels // 2]  # on a level
    weights.view(-1)[1::7] = levels[-1]
    lengths = torch.rand(*shape, num_levels, generator=generator) * 12
    return weights, levels, lengths


@pytest.mark.parametrize("num_levels", [2, 3, 5, 300])
@pytest.mark.parametrize("shape", [(7,), (30, 41), (6, 5, 3, 3)])
def test_it_equals_torch(num_levels, shape):
    weights, levels, lengths = problem(num_levels, shape)
    bits, gradient = bits_and_gradient(weights, levels, lengths, 1000)
    expected, slope = _plain(weights, levels, lengths, 1000)
    assert bits.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.equal(gradient, slope) and gradient.shape == weights.shape


def test_it_equals_the_formula_in_float64():
    weights, levels, lengths = problem(4, (500,))
    w, c, table = (tensor.double().numpy() for tensor in (weights, levels, lengths))
    bits = sum(np.interp(w[t], c, table[t]) for t in range(len(w)))
    assert bits_and_gradient(weights, levels, lengths, 7)[0].item() == pytest.approx(bits, rel=1e-6)
    step = 1e-6
    slopes = [
        (np.interp(w[t] + step, c, table[t]) - np.interp(w[t] - step, c, table[t])) / (2 * step)
        for t in range(len(w))
    ]
    apart = np.abs(w[:, None] - c).min(1) > 2 * step  # a kink has no slope
    gradient = bits_and_gradient(weights, levels, lengths, 7)[1].numpy()
    np.testing.assert_allclose(gradient[apart] * 7, np.array(slopes)[apart], rtol=1e-3, atol=1e-4)


def test_weights_in_channels_last():
    weights, levels, lengths = problem(5, (6, 5, 3, 3))
    expected = bits_and_gradient(weights, levels, lengths, 9)
    found = bits_and_gradient(weights.to(memory_format=torch.channels_last), levels, lengths, 9)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_threads_do_not_change_a_bit():
    weights, levels, lengths = problem(5, (3 * PART + 17,))
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(bits_and_gradient(weights, levels, lengths, 11))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_the_loop_as_plain_python(plain_loops):
    weights, levels, lengths = problem(5, (600,))
    expected, slope = _plain(weights, levels, lengths, 3)
    assert not hasattr(module.pay, "py_func")
    bits, gradient = bits_and_gradient(weights, levels, lengths, 3)
    assert bits.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, slope)
