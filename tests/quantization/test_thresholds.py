"""Cells of least cost, against trying every level."""

import numpy as np
import pytest

from hemp_lightning.quantization.thresholds import cheapest_cells


@pytest.mark.parametrize("scale", [0.0, 0.01, 0.3, 10.0])
def test_cells_are_those_of_least_cost(scale):
    generator = np.random.default_rng(0)
    for num_levels in (1, 2, 3, 7, 40):
        levels = np.sort(generator.normal(size=num_levels))
        costs = scale * generator.exponential(size=num_levels)
        thresholds = cheapest_cells(levels, costs)
        assert thresholds.shape == (num_levels - 1,) and (np.diff(thresholds) >= 0).all()
        weights = generator.normal(scale=2.0, size=2000)
        cheapest = ((weights[:, None] - levels) ** 2 + costs).argmin(1)
        np.testing.assert_array_equal(np.searchsorted(thresholds, weights, "right"), cheapest)


def test_an_expensive_level_between_two_cheap_ones_has_no_cell():
    # at 1, the border between -3 and 5, these cost 16 and 0 costs 16.5
    thresholds = cheapest_cells(np.array([-3.0, 0.0, 5.0]), np.array([0.0, 15.5, 0.0]))
    np.testing.assert_array_equal(thresholds, [1.0, 1.0])


def test_neighbours_in_float32_meet_in_the_middle():
    levels = np.float32([1.0, np.nextafter(np.float32(1), np.float32(2))]).astype(np.float64)
    assert levels[0] < cheapest_cells(levels, np.zeros(2))[0] < levels[1]
