"""Which options the encoder chooses for a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hemp_lightning.coding.context.payload import encode_with
from hemp_reader.coding.context.counter_loop import code_fast
from hemp_reader.coding.context.mixing_loop import code_indices
from hemp_reader.coding.context.options import MAX_SCALE, MAX_UNARY, Options
from hemp_reader.coding.indices import tally
from hemp_reader.scan_order import SCANS, scan_axes

_SPARSE = 0.1  # mean magnitude
_SMALL = 4096  # up to this size a choice is made by trying


def choose(
    indices: np.ndarray,
    num_levels: int,
    code: Callable[..., bool] = code_indices,
    has_flags: bool = True,
    has_frequencies: bool = False,
) -> Options:
    """Options by the statistics of the indices; the scan by coding a part in each."""
    counts = tally(indices, num_levels)
    centre = int(counts.argmax())
    if counts[num_levels // 2] == counts[centre]:
        centre = num_levels // 2
    half = _has_no_centre(counts)
    options = Options(half=half, centre=centre, frequencies=has_frequencies)
    below, above = options.sides(num_levels)
    positions = np.arange(num_levels)
    mean = float((counts * np.abs(positions - centre)).sum()) / indices.size
    options = replace(
        options,
        binary=max(below, above) > MAX_UNARY or mean > 3,
        scale=min(max(math.frexp(mean / 2)[1], 0), MAX_SCALE),
    )
    if indices.ndim < 2:
        return options
    part = _part(indices, mean)
    trial = code if mean < _SPARSE else code_fast  # which ranks the scans of dense tensors as well
    sizes = {}
    for scan in _scans(indices.ndim, mean):
        sizes[scan] = len(encode_with(part, num_levels, replace(options, scan=scan), trial))
    options = replace(options, scan=min(sizes, key=lambda scan: sizes[scan]))
    if options.half or not has_flags or _silent_rows(indices, options) < 0.05:
        return options
    flags = replace(options, flags=True)
    if indices.size > _SMALL:
        return flags
    return min(options, flags, key=lambda choice: len(encode_with(indices, num_levels, choice)))


def _has_no_centre(counts: np.ndarray) -> bool:
    """Whether the indices peak, evenly, at the two middle levels."""
    middle = len(counts) // 2
    if len(counts) < 4:
        return False
    lower, upper = int(counts[middle - 1]), int(counts[middle])
    beside = int(counts[middle - 2] + counts[middle + 1])
    below = int(counts[:middle].sum()) / int(counts.sum())
    even = 4 * lower < 5 * upper and 4 * upper < 5 * lower and 0.45 < below < 0.55
    return even and 5 * (lower + upper) > 6 * beside


def _scans(ndim: int, mean: float) -> tuple[str, ...]:
    """The scans that are worth a trial; sparse tensors are quick to code and gain the most."""
    if ndim == 2:
        return "row_major", "output"
    return SCANS if mean < _SPARSE else ("row_major", "kernel")


def _silent_rows(indices: np.ndarray, options: Options) -> float:
    turned = indices.transpose(scan_axes(options.scan, indices.ndim))
    return float((turned.reshape(len(turned), -1) == options.centre).all(1).mean())


def _part(indices: np.ndarray, mean: float) -> np.ndarray:
    """A corner of the tensor, large enough to compare scans on."""
    wanted = max(indices.size // (4 if mean < _SPARSE else 8), 4096)
    share = math.sqrt(min(wanted / indices.size, 1.0))
    rows = max(math.ceil(indices.shape[0] * share), min(indices.shape[0], 8))
    columns = max(math.ceil(indices.shape[1] * share), min(indices.shape[1], 8))
    return indices[:rows, :columns]
