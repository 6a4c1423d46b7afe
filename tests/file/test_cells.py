"""Cells that know their price: against weighing every level by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hemp_lightning import load, save
from hemp_lightning.coding.context import coder
from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.file.cells import assign_priced
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.thresholds import PRICE
from hemp_reader.coding.context.options import Options

LEVELS = (0.5 * np.arange(-4, 5)).astype(np.float32)


def drawn(*shape):
    return np.random.default_rng(0).laplace(scale=0.4, size=shape).astype(np.float32)


def nearest(values):
    return abs(values[..., None] - LEVELS).argmin(-1).astype(np.uint8)


@pytest.mark.parametrize("options", [Options(centre=4), Options(half=True), Options(centre=0)])
@pytest.mark.parametrize("scan", ["row_major", "input"])
def test_each_takes_what_costs_least_after_those_before_it(monkeypatch, options, scan):
    """Lengths of the chosen indices tell what the coder knew when it chose each of them."""
    options = replace(options, scan=scan)
    monkeypatch.setattr(coder, "choose", lambda *_: options)
    values = drawn(12, 5, 3, 3)
    start = nearest(values)
    found = assign_priced(values, LEVELS, start)
    lengths = ContextCoder().lengths(found, len(LEVELS))
    assert (found != start).mean() > 0.01
    for place in np.ndindex(*values.shape):
        near = {int(start[place]) + beside for beside in (-1, 0, 1)} & set(range(len(LEVELS)))
        near |= set() if options.half else {options.centre}
        costs = {
            index: (float(values[place]) - float(LEVELS[index])) ** 2
            + PRICE * 0.25 * float(lengths[(*place, index)])
            for index in near
        }
        assert costs[int(found[place])] == pytest.approx(min(costs.values()), rel=1e-6)


def test_bytes_fall_by_more_than_a_finer_grid_costs():
    """At the same squared error the file of priced cells is the smaller one."""

    def bytes_and_error(step, is_priced):
        values = drawn(64, 32, 3, 3)
        levels = (step * np.arange(-40, 41)).astype(np.float32)
        indices = abs(values[..., None] - levels).argmin(-1)
        if is_priced:
            indices = assign_priced(values, levels, indices)
        size = len(ContextCoder().encode(indices, len(levels)))
        return size, float(np.square(values - levels[indices]).mean())

    size, error = bytes_and_error(0.9, is_priced=False)
    priced_size, priced_error = bytes_and_error(0.79, is_priced=True)
    assert priced_error < error
    assert priced_size < 0.95 * size


def test_values_that_are_levels_stay():
    values = np.zeros((50, 50), np.float32)
    values[20, 20] = 2.0
    np.testing.assert_array_equal(LEVELS[assign_priced(values, LEVELS, nearest(values))], values)


@pytest.mark.parametrize("levels", [np.zeros(1), np.arange(300) / 9])
def test_what_has_no_lengths_keeps_its_indices(levels):
    values = drawn(20, 3)
    indices = np.zeros(values.shape, np.uint16)
    assert assign_priced(values, levels.astype(np.float32), indices) is indices


@pytest.mark.parametrize(
    ("options", "is_priced"),
    [
        ({"quantizer": "uniform", "num_levels": 16}, True),
        ({"quantizer": "uniform", "num_levels": 16, "cells": "nearest"}, False),
        ({"quantizer": "uniform", "num_levels": 16, "coder": "raw"}, False),
        ({"quantizer": "lloyd_max", "num_levels": 16}, False),
        ({"quantizer": "lloyd_max", "num_levels": 16, "cells": "priced"}, True),
        ({}, False),
        ({"codebooks": {"w": Codebook(torch.from_numpy(LEVELS))}}, False),
    ],
)
def test_cells_of_a_file(tmp_path, options, is_priced):
    weights = torch.from_numpy(drawn(40, 30))
    save({"w": weights}, tmp_path / "x.hemp", **options)
    found = load(tmp_path / "x.hemp")["w"]
    levels = found.unique()
    nearest_levels = levels[(weights[..., None] - levels).abs().argmin(-1)]
    assert found.equal(nearest_levels) != is_priced


def test_unknown_cells_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`cells` must be one of auto, nearest, priced; found 'x'"):
        save({"w": torch.ones(2, 2)}, tmp_path / "x.hemp", cells="x")
