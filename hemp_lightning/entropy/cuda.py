"""Soft entropy and its gradient on CUDA, compiled with Triton.

One launch adds the `2^n` corner products of every tuple of every tensor to the tables, one more
contracts the logarithms of the tables into the gradient; what lies between is a few operations on
the tables. Nothing waits for the GPU.

Tables that fit shared memory are filled there (`cuda_shared`), where Triton is new enough to let a
kernel address it. Others are kept in copies that lie in the L2 cache and programs take turns on
them, so that tuples at zero, most of a trained network, do not queue for one cell. Masses are whole
numbers of `2^-shift`: sums of integers do not depend on their order, so the result is the same on
every run. A cell of less than half a unit counts as empty.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from hemp_lightning.entropy.cuda_parts import locate, row
from hemp_lightning.entropy.tables import Layout

try:
    from hemp_lightning.entropy import cuda_shared
except ImportError:  # Triton before 3.8
    cuda_shared = None  # type: ignore[assignment]

MAX_ORDER = 8
TILE = 1024
"""Corner products that a program holds at a time."""

MAX_COPIES = 64
COPIED_CELLS = 1 << 18
"""Cells in all copies of the tables together, 8 bytes each, where there is a choice."""


# One binary for all sizes: a refit that drops a level must not compile anything.
@triton.jit(do_not_specialize=["unit", "num_cells", "num_copies", "steps"])
def _accumulate(  # type: ignore[no-untyped-def]
    weights, levels, sums, fractions, bases, blocks, segments, unit, num_cells, num_copies, steps,
    ORDER: tl.constexpr, CORNERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Locate the weights of a block of tuples, add their corner products to a copy of the table."""
    start, count, first_level, num_levels, first, table, table_levels = row(blocks, segments)
    levels += first_level
    bases += first
    tuples = tl.load(blocks + 2 * tl.program_id(0) + 1) + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = tuples < count
    corners = tl.arange(0, CORNERS)
    base = tl.zeros([BLOCK], tl.int64)
    offset = tl.zeros([CORNERS], tl.int64)
    product = tl.full([BLOCK, CORNERS], 1.0, weights.dtype.element_ty)
    for j in tl.static_range(ORDER):
        place = start + tuples * ORDER + j
        weight = tl.load(weights + place, mask=inside, other=0.0)
        low, fraction = locate(weight, levels, num_levels, steps)
        tl.store(fractions + place, fraction, mask=inside)
        fraction = tl.minimum(tl.maximum(fraction, 0.0), 1.0)[:, None]
        bit = (corners >> (ORDER - 1 - j)) & 1
        product *= tl.where((bit == 1)[None, :], fraction, 1.0 - fraction)
        base = base * table_levels + low
        # the upper corner of a single level has no mass; it stays within the table
        offset = offset * table_levels + tl.where(table_levels > 1, bit, 0)
    tl.store(bases + tuples, base, mask=inside)
    cells = (
        sums + (tl.program_id(0) % num_copies) * num_cells + table + base[:, None] + offset[None, :]
    )
    mass = (product * unit + 0.5).to(tl.int64)
    tl.atomic_add(cells, mass, mask=inside[:, None] & (mass > 0), sem="relaxed")


@triton.jit
def _contract(  # type: ignore[no-untyped-def]
    levels, logs, fractions, bases, gradient, blocks, segments,
    ORDER: tl.constexpr, CORNERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient: scaled logarithms of the corners, times all factors but one."""
    start, count, first_level, num_levels, first, table, table_levels = row(blocks, segments)
    levels += first_level
    bases += first
    tuples = tl.load(blocks + 2 * tl.program_id(0) + 1) + tl.arange(0, BLOCK)  # (BLOCK,)
    inside = tuples < count
    corners = tl.arange(0, CORNERS)
    base = tl.load(bases + tuples, mask=inside, other=0)
    offset = tl.zeros([CORNERS], tl.int64)
    for j in tl.static_range(ORDER):
        bit = (corners >> (ORDER - 1 - j)) & 1
        offset = offset * table_levels + tl.where(table_levels > 1, bit, 0)
    log = tl.load(logs + table + base[:, None] + offset[None, :], mask=inside[:, None], other=0.0)
    for j in tl.static_range(ORDER - 1, -1, -1):
        slope = log
        for m in tl.static_range(ORDER):
            upper = (((corners >> (ORDER - 1 - m)) & 1) == 1)[None, :]
            if m == j:
                slope = tl.where(upper, slope, -slope)
            else:
                other = tl.load(fractions + start + tuples * ORDER + m, mask=inside, other=0.0)
                other = tl.minimum(tl.maximum(other, 0.0), 1.0)[:, None]
                slope *= tl.where(upper, other, 1.0 - other)
        cell = base % table_levels  # the last digit of the number of a tuple is that of weight j
        base = base // table_levels
        place = start + tuples * ORDER + j
        fraction = tl.load(fractions + place, mask=inside, other=0.0)
        gap = tl.load(levels + tl.minimum(cell + 1, num_levels - 1)) - tl.load(levels + cell)
        pulls = (fraction >= 0) & (fraction < 1) & (gap > 0)
        result = tl.where(pulls, tl.sum(slope, 1) / tl.where(gap > 0, gap, 1.0), 0.0)
        tl.store(gradient + place, result, mask=inside)


class _Plan(NamedTuple):
    """Where things lie, for one network: the same at each step, so made and sent once."""

    blocks: Tensor  # segment and first tuple of each program, int64 (programs, 2)
    filling: Tensor  # the same of the programs that fill the tables
    segments: Tensor  # int64 (segments, 7): see `_plan`
    num_cells: int
    num_copies: int
    shift: int
    total_bits: float  # sum of T log2 T over the tables


@lru_cache(maxsize=16)
def _plan(
    starts: tuple[int, ...],
    tuples: tuple[int, ...],
    lengths: tuple[int, ...],
    tables: tuple[int, ...],
    table_levels: tuple[int, ...],
    table_tuples: tuple[int, ...],
    order: int,
    shared: bool,
    device: torch.device,
) -> _Plan:
    cells = np.cumsum([0, *(count**order for count in table_levels)])
    num_cells = int(cells[-1])
    segments = np.stack(
        [
            starts,
            tuples,
            np.cumsum([0, *lengths])[:-1],  # first level
            lengths,
            np.cumsum([0, *tuples])[:-1],  # first number of a tuple
            cells[list(tables)],
            np.array(table_levels)[list(tables)],
        ],
        axis=1,
    ).astype(np.int64)
    shift = 62 - max(1, *table_tuples).bit_length()  # the sum of a table fits, roundings included
    blocks = _blocks(tuples, _block(order)).to(device)
    return _Plan(
        blocks,
        _blocks(tuples, cuda_shared.TUPLES).to(device) if shared else blocks,
        torch.from_numpy(segments).to(device),
        num_cells,
        1 if shared else max(1, min(MAX_COPIES, COPIED_CELLS // num_cells)),
        min(shift, cuda_shared.SHIFT) if shared else shift,
        sum(count * float(np.log2(max(count, 1))) for count in table_tuples),
    )


def _block(order: int) -> int:
    return max(16, TILE >> order)


def _blocks(tuples: tuple[int, ...], size: int) -> Tensor:
    found = [(s, first) for s, count in enumerate(tuples) for first in range(0, count, size)]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


def takes(layout: Layout) -> bool:
    """Whether these kernels are made for `layout`: tuples not too long, room for every cell.

    Together the tables may have twice as many cells as there are weights, whatever a small tensor
    has for itself: it must not send a whole network to the plain version.
    """
    cells = sum(count**layout.order for count in layout.table_levels)
    room = max(COPIED_CELLS, 2 * layout.order * sum(layout.tuples))
    return layout.order <= MAX_ORDER and cells <= room


def shares(layout: Layout, device: torch.device) -> bool:
    """Whether tables are filled in shared memory, which Triton's interpreter does not have."""
    nvidia = device.type == "cuda" and torch.version.hip is None  # warps of 32
    fits = nvidia and cuda_shared is not None and cuda_shared.fits(layout)
    return fits and agrees(device)


@lru_cache(maxsize=16)
def agrees(device: torch.device) -> bool:
    """Whether both ways to fill a table give the same here; warns if not. Once a process.

    Gluon is experimental: what a Triton to come makes of it should cost time, not be an error.
    """
    count = 5 * cuda_shared.TUPLES  # weights for two programs and a half
    levels = torch.linspace(-1, 1, 5, device=device)
    layout = Layout.of([count], [levels], 2, False)
    flat = torch.linspace(-1.1, 1.1, count, device=device)
    try:
        expected, slopes = _evaluate(flat, layout, True, 1.0, shared=False)
        found, others = _evaluate(flat, layout, True, 1.0, shared=True)
        if torch.allclose(found, expected, 1e-6) and torch.allclose(others, slopes, 1e-4, 1e-4):
            return True
        reason = f"{float(found)} bits and not {float(expected)}"
    except Exception as error:  # whatever a compiler may raise
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"The entropy term does not use shared memory, with Triton {triton.__version__} on "
        f"{device}, and is slower for it; please report this: {reason}",
        stacklevel=2,
    )
    return False


def warm_up(order: int, device: torch.device) -> None:
    """Compile what tuples of `order` need, tables large or small; float32."""
    levels = torch.linspace(-1, 1, 3, device=device)
    layout = Layout.of([4 * order], [levels], order, False)
    for shared in {False, shares(layout, device)} if takes(layout) else ():
        _evaluate(torch.zeros(4 * order, device=device), layout, True, 1.0, shared)


def bits_and_gradient(
    flat: Tensor, layout: Layout, with_gradient: bool, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Bits of all whole tuples and their gradient.

    Args:
        flat: Weights, float32 or float64 `(num_weights,)`, contiguous, on a GPU (or on the CPU in
            Triton's interpreter).
        layout: Where the tensors lie in `flat`; one that `takes` accepts.
        with_gradient: If False the gradient comes back empty.
        scale: Factor of the gradient.

    Returns:
        Bits, float64 scalar; gradient, dtype of `flat`, `(num_weights,)`, 0 for left-over weights.
    """
    return _evaluate(flat, layout, with_gradient, scale, shares(layout, flat.device))


def _evaluate(
    flat: Tensor, layout: Layout, with_gradient: bool, scale: float, shared: bool
) -> tuple[Tensor, Tensor]:
    order, device = layout.order, flat.device
    lengths = tuple(len(entry) for entry in layout.levels)
    plan = _plan(
        tuple(layout.starts),
        tuple(layout.tuples),
        lengths,
        tuple(layout.tables),
        tuple(layout.table_levels),
        tuple(layout.table_tuples()),
        order,
        shared,
        device,
    )
    gradient = torch.zeros_like(flat) if with_gradient else flat.new_zeros(0)
    programs = len(plan.blocks)
    if not programs:
        return flat.new_zeros((), dtype=torch.float64), gradient
    levels = torch.cat(layout.levels).to(flat)
    sums = torch.zeros(plan.num_copies * plan.num_cells, dtype=torch.int64, device=device)
    fractions = torch.empty_like(flat)
    bases = torch.empty(sum(layout.tuples), dtype=torch.int64, device=device)
    shape: dict[str, Any] = {"ORDER": order, "CORNERS": 1 << order, "BLOCK": _block(order)}
    unit, steps = 2.0**plan.shift, max(lengths).bit_length()
    if shared:
        cuda_shared.launch(
            len(plan.filling), flat, levels, sums, fractions, bases, plan.filling, plan.segments,
            unit, layout=layout, steps=steps,
        )  # fmt: skip
    else:
        _accumulate[(programs,)](
            flat, levels, sums, fractions, bases, plan.filling, plan.segments, unit,
            plan.num_cells, plan.num_copies, steps, **shape,
        )  # fmt: skip
    mass = sums.view(plan.num_copies, -1).sum(0).double() / unit
    # An empty cell counts as one tuple. The gradient needs differences of logarithms only, so that
    # of the total is left out of it.
    logs = torch.where(mass > 0, mass, 1.0).log2()
    bits = plan.total_bits - (mass * logs).sum()
    if with_gradient:
        _contract[(programs,)](
            levels, (logs * -scale).to(flat.dtype), fractions, bases, gradient, plan.blocks,
            plan.segments, **shape,
        )  # fmt: skip
    return bits, gradient
