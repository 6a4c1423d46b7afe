"""Loops that no result shows by itself."""

from __future__ import annotations

import numpy as np
import pytest

from hemp_lightning.entropy import logarithms


@pytest.mark.parametrize("loops", ["compiled", "interpreted"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("parts", "cells"), [(1, 1), (1, 200), (3, 67), (2, 64)])
def test_parts_are_added_and_logarithms_taken(parts, cells, dtype, loops, request):
    if loops == "interpreted":
        request.getfixturevalue("plain_loops")
    table = np.exp(np.random.default_rng(0).normal(0, 9, (parts, cells)))
    table[:, ::3] = 0
    table[0, -1] = 1e-300
    masses = table.sum(0)
    with np.errstate(divide="ignore"):
        expected = np.where(masses > 0, np.log2(masses), 0)
    logs = np.empty(cells, dtype)
    total = logarithms.finish(table.reshape(-1), parts, cells, logs)
    np.testing.assert_allclose(logs, expected, rtol=1e-6 if dtype == np.float32 else 1e-14)
    assert total == pytest.approx((masses * expected).sum(), rel=1e-13)
    np.testing.assert_allclose(table[0], masses, rtol=1e-15)
