"""Cells of least cost, against trying every level."""

import numpy as np
import pytest

from hemp_lightning.quantization import thresholds
from hemp_lightning.quantization.thresholds import PRICE, cheapest_cells, priced_indices


@pytest.mark.parametrize("scale", [0.0, 0.01, 0.3, 10.0])
def test_cells_are_those_of_least_cost(scale):
    generator = np.random.default_rng(0)
    for num_levels in (1, 2, 3, 7, 40):
        levels = np.sort(generator.normal(size=num_levels))
        costs = scale * generator.exponential(size=num_levels)
        borders = cheapest_cells(levels, costs)
        assert borders.shape == (num_levels - 1,) and (np.diff(borders) >= 0).all()
        weights = generator.normal(scale=2.0, size=2000)
        cheapest = ((weights[:, None] - levels) ** 2 + costs).argmin(1)
        np.testing.assert_array_equal(np.searchsorted(borders, weights, "right"), cheapest)


def test_an_expensive_level_between_two_cheap_ones_has_no_cell():
    # at 1, the border between -3 and 5, these cost 16 and 0 costs 16.5
    borders = cheapest_cells(np.array([-3.0, 0.0, 5.0]), np.array([0.0, 15.5, 0.0]))
    np.testing.assert_array_equal(borders, [1.0, 1.0])


def test_neighbours_in_float32_meet_in_the_middle():
    levels = np.float32([1.0, np.nextafter(np.float32(1), np.float32(2))]).astype(np.float64)
    assert levels[0] < cheapest_cells(levels, np.zeros(2))[0] < levels[1]


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_priced_indices_cost_the_least(scale):
    generator = np.random.default_rng(0)
    levels = (scale * np.arange(-3, 4)).astype(np.float32)
    weights = (scale * generator.normal(scale=2.0, size=(40, 5))).astype(np.float32)
    lengths = generator.exponential(3.0, size=(40, 5, 7)).astype(np.float32)
    price = PRICE * scale**2
    found = priced_indices(weights, levels, lengths, price)
    for place in np.ndindex(40, 5):
        costs = [
            (float(weights[place]) - float(level)) ** 2 + price * float(length)
            for level, length in zip(levels, lengths[place], strict=True)
        ]
        assert costs[found[place]] == min(costs)


def test_without_a_price_levels_are_the_nearest(monkeypatch):
    monkeypatch.setattr(thresholds, "_PIECE", 10)
    weights = np.random.default_rng(0).normal(size=(33, 2)).astype(np.float32)
    levels = np.float32([-1, -0.25, 0, 2])
    found = priced_indices(weights, levels, np.ones((33, 2, 4), np.float32), price=0.0)
    np.testing.assert_array_equal(found, abs(weights[..., None] - levels).argmin(-1))


def test_lengths_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`lengths` must have shape \(2, 3\); found \(2, 2\)"):
        priced_indices(np.zeros(2, np.float32), np.zeros(3), np.zeros((2, 2)), price=0.1)
