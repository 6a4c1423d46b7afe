"""The plain version of the soft entropy, on any device: `formula`, corner by corner."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.entropy.tables import Layout, inverse_gaps


def bits_and_gradient(
    flat: Tensor, layout: Layout, with_gradient: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Bits of all whole tuples, and `scale` times their gradient. See `cuda.bits_and_gradient`.

    Memory is that of a few copies of the weights and of the tables: corners come one at a time.
    """
    order, real = layout.order, flat.dtype
    corners = list(product((0, 1), repeat=order))
    located = [_locate(flat, layout, segment) for segment in range(len(layout.tuples))]
    gradient = torch.zeros_like(flat) if with_gradient else flat.new_zeros(0)
    bits = flat.new_zeros((), dtype=torch.float64)
    for table, total in enumerate(layout.table_tuples()):
        segments = [s for s, t in enumerate(layout.tables) if t == table and layout.tuples[s]]
        if not segments:
            continue
        numbers, size = _number_cells(located, segments, corners, layout.table_levels[table])
        mass = torch.zeros(size, dtype=torch.float64, device=flat.device)
        for segment in segments:
            fractions = located[segment][1].double().clamp(0, 1)
            for k, corner in enumerate(corners):
                mass.index_add_(0, numbers[segment][k], _weight(fractions, corner))
        p = mass / total
        floor = torch.full_like(p, -float(np.log2(total)))
        logs = torch.where(p > 0, p.clamp_min(torch.finfo(p.dtype).tiny).log2(), floor)
        bits -= total * (p * logs).sum()
        for segment in segments if with_gradient else []:
            _, raw, inverse = located[segment]
            fractions = raw.double().clamp(0, 1)
            slope = torch.zeros_like(raw, dtype=torch.float64)
            for k, corner in enumerate(corners):
                log = logs[numbers[segment][k]]
                for j in range(order):
                    others = _weight(fractions, corner, leave_out=j)
                    slope[:, j] += (1 if corner[j] else -1) * others * log
            inside = (raw >= 0) & (raw < 1)
            start = layout.starts[segment]
            gradient[start : start + slope.numel()] = (
                (slope * inverse * inside * -scale).reshape(-1).to(real)
            )
    return bits, gradient


def _locate(flat: Tensor, layout: Layout, segment: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cell, place in it and inverse gap of each weight of a segment, each `(tuples, order)`."""
    start, count = layout.starts[segment], layout.tuples[segment] * layout.order
    weights, levels = flat[start : start + count], layout.levels[segment].to(flat)
    cells = torch.bucketize(weights, levels[1:-1], right=True)
    inverse = inverse_gaps(levels)[cells]
    shape = (-1, layout.order)
    return cells.view(shape), ((weights - levels[cells]) * inverse).view(shape), inverse.view(shape)


def _number_cells(
    located: list[tuple[Tensor, Tensor, Tensor]],
    segments: list[int],
    corners: list[tuple[int, ...]],
    num_levels: int,
) -> tuple[dict[int, list[Tensor]], int]:
    """Cell of the table that each corner of each tuple falls in, and the number of cells."""
    order = len(corners[0])
    place = [num_levels ** (order - 1 - j) for j in range(order)]
    numbers = {}
    for segment in segments:
        base = sum(located[segment][0][:, j] * place[j] for j in range(order))
        # the upper corner of a single level has no mass; any cell will do
        numbers[segment] = [
            (base + sum(c * p for c, p in zip(corner, place, strict=True))).clamp_max_(
                num_levels**order - 1
            )
            for corner in corners
        ]
    if num_levels**order <= 1 << 22:
        return numbers, num_levels**order
    used = torch.cat([entry for segment in segments for entry in numbers[segment]]).unique()
    for segment in segments:
        numbers[segment] = [torch.searchsorted(used, entry) for entry in numbers[segment]]
    return numbers, len(used)


def _weight(fractions: Tensor, corner: tuple[int, ...], leave_out: int | None = None) -> Tensor:
    """Product of the soft assignments of a corner, `(tuples,)`, all factors but one if asked."""
    result = torch.ones_like(fractions[:, 0])
    for j, upper in enumerate(corner):
        if j != leave_out:
            result = result * (fractions[:, j] if upper else 1 - fractions[:, j])
    return result
