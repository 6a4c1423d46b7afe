"""LSQ's gradients against autograd on the paper's own formula."""

from __future__ import annotations

import pytest
import torch

from hemp_lightning.suite.baselines.lsq import lsq_gradients, lsq_range


def straight_through_round(x: torch.Tensor) -> torch.Tensor:
    return x + (x.round() - x).detach()


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_gradients_equal_autograd_through_a_straight_through_round(bits: int) -> None:
    torch.manual_seed(bits)
    weights = torch.randn(500, dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.21, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(500, dtype=torch.float64)
    low, high = lsq_range(bits)
    quantized = straight_through_round((weights / step).clamp(low, high)) * step
    quantized.backward(gradient)
    by_weights, by_step = lsq_gradients(weights.detach(), step.detach(), gradient, bits)
    assert torch.allclose(by_weights, weights.grad)
    scale = (500 * high) ** -0.5
    assert float(by_step) == pytest.approx(float(step.grad) * scale, rel=1e-9)
