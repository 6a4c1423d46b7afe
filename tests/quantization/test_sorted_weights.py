"""Weights sorted bucket by bucket, against all of them sorted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hemp_lightning.quantization.sorted_weights import BucketedWeights, SortedWeights


def weights_of(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(100_003, generator=generator) * 0.1
    return {
        "normal": normal,
        "one": normal[:1],
        "few": normal[:37],
        "with outliers": torch.cat([normal, torch.tensor([3e38, -3e38, 1e-42, -1e-42])]),
        "with zeros": torch.cat([normal, torch.zeros(500), -torch.zeros(500)]),
        "constant": torch.full((5000,), -0.25),
    }[kind]


@pytest.mark.parametrize("loops", ["compiled", "interpreted"])
@pytest.mark.parametrize(
    "kind", ["normal", "one", "few", "with outliers", "with zeros", "constant"]
)
def test_borders_and_sums_are_those_of_the_sorted_weights(kind, loops, request):
    weights = weights_of(kind)
    if loops == "interpreted":
        request.getfixturevalue("plain_loops")
        weights = weights[-3000:]
    ordered = np.sort(weights.numpy())
    some = np.random.default_rng(0).normal(size=40).astype(np.float32) * 0.2
    thresholds = np.concatenate([some, ordered[:: len(ordered) // 20 + 1], [0.0, -0.0]])
    expected = np.searchsorted(ordered, thresholds)
    for made in (BucketedWeights, SortedWeights):
        found = made(weights.clone())
        assert len(found) == len(weights)
        assert np.array_equal(found.borders(thresholds.astype(np.float32)), expected)
        positions = np.concatenate([expected, [0, len(ordered)]])
        sums = np.array([ordered[:p].astype(np.float64).sum() for p in positions])
        np.testing.assert_allclose(found.sums_up_to(positions), sums, rtol=1e-12, atol=1e-12)
        inside = positions[positions < len(ordered)]
        assert np.array_equal(found.at(inside), ordered[inside].astype(np.float64))
