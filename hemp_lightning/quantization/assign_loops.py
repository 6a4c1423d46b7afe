"""The loop of `hemp_lightning.quantization.assign`."""

from __future__ import annotations

from hemp_reader.numba_tools import jit

QUANTIZED = 512
"""Weights that are compared with one threshold after the other: they stay in the nearest cache."""


@jit
def quantize(weights, thresholds, levels, out):  # type: ignore[no-untyped-def]
    """Level of each weight; a weight that equals a threshold goes up, NaN stays.

    Every weight is compared with every threshold: up to 256 levels the vector unit is quicker at
    that than a search is.
    """
    last = thresholds.shape[0]
    for start in range(0, weights.shape[0], QUANTIZED):
        these = weights[start : start + QUANTIZED]
        found = out[start : start + QUANTIZED]
        for p in range(these.shape[0]):
            found[p] = levels[0] if these[p] == these[p] else these[p]
        whole = last - last % 4
        for k in range(0, whole, 4):  # four at a time, between one load and one store
            a, b, c, d = thresholds[k], thresholds[k + 1], thresholds[k + 2], thresholds[k + 3]
            e, f, g, h = levels[k + 1], levels[k + 2], levels[k + 3], levels[k + 4]
            for p in range(these.shape[0]):
                weight, level = these[p], found[p]
                level = e if weight >= a else level
                level = f if weight >= b else level
                level = g if weight >= c else level
                found[p] = h if weight >= d else level
        for k in range(whole, last):
            border, above = thresholds[k], levels[k + 1]
            for p in range(these.shape[0]):
                found[p] = above if these[p] >= border else found[p]
