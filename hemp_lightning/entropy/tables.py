"""How the tensors of a network lie in one flat problem for a kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNROLLED_ORDER = 8
"""Longer tuples have too many corners for loops to be unrolled over them: tables are sparse."""

ROW_CELLS = 4096
"""Cells of a row of a table, where there is a choice: two rows, 12 bytes a cell, fit a cache."""

MAX_CELLS = 1 << 62
"""Tuples are numbered in int64."""


@dataclass(frozen=True)
class Layout:
    """Segments of a flat tensor of weights, one per tensor, and the tables they are counted in.

    Args:
        starts: First weight of each segment.
        tuples: Number of whole tuples of each segment.
        levels: Levels of each segment, `(num_levels,)` each.
        tables: Table of each segment.
        table_levels: Levels along each axis of a table, one entry per table.
        order: Length of a tuple.
    """

    starts: list[int]
    tuples: list[int]
    levels: list[Tensor]
    tables: list[int]
    table_levels: list[int]
    order: int

    @classmethod
    def of(cls, sizes: list[int], levels: list[Tensor], order: int, pooled: bool) -> Layout:
        """Lay out tensors of `sizes` weights, with one table in all if `pooled`, else one each.

        Raises:
            ValueError: If a table would have more than `MAX_CELLS` cells.
        """
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size)
        lengths = [len(entry) for entry in levels]
        layout = cls(
            starts=starts[:-1],
            tuples=[size // order for size in sizes],
            levels=levels,
            tables=[0] * len(sizes) if pooled else list(range(len(sizes))),
            table_levels=[max(lengths)] if pooled else lengths,
            order=order,
        )
        if max(layout.table_levels) ** order > MAX_CELLS:
            raise ValueError(
                f"`order` {order} with {max(layout.table_levels)} levels makes a table of more "
                "than 2^62 cells; lower the order or the number of levels"
            )
        return layout

    def table_tuples(self) -> list[int]:
        """Number of tuples counted in each table."""
        totals = [0] * len(self.table_levels)
        for table, count in zip(self.tables, self.tuples, strict=True):
            totals[table] += count
        return totals

    def kind(self, most_cells: int = MAX_CELLS) -> str:
        """How tables are kept: `dense`, `rows` of which two exist at a time, or `sparse`.

        Memory decides: 12 bytes a cell of a dense table, 8 for each row, against a few times the
        weights' own.

        Args:
            most_cells: Of a dense table, where that is slower beyond.
        """
        if self.order > UNROLLED_ORDER:
            return "sparse"
        kinds = {"dense"}
        for num_levels, count in zip(self.table_levels, self.table_tuples(), strict=True):
            allowed = min(max(4096, count * self.order * 2), most_cells)
            if self.order > 1 and num_levels**self.order > allowed:
                few_rows = num_levels ** self.lead(num_levels) <= max(1 << 16, count)
                kinds.add("rows" if few_rows and count < 1 << 31 else "sparse")  # int32 numbers
        return max(kinds, key=["dense", "rows", "sparse"].index)

    def lead(self, num_levels: int) -> int:
        """Leading weights of a tuple, whose indices are the number of a row of the table."""
        lead = 1
        while lead < self.order - 1 and num_levels ** (self.order - lead) > ROW_CELLS:
            lead += 1
        return lead

    def steps(self, num_levels: int) -> tuple[int, ...]:
        """Distance in the table of neighbouring cells along each place of a tuple."""
        return tuple(num_levels ** (self.order - 1 - j) for j in range(self.order))

    def corner_offsets(self, num_levels: int) -> list[int]:
        """Cell of each of the `2^order` corners, relative to the lowest.

        Bit `j` of a corner's number says whether weight `j` of the tuple is at its upper level.
        """
        offsets = [0]
        for j in range(self.order):
            step = num_levels ** (self.order - 1 - j)
            # the upper corner of a single level has no mass; it stays within the table
            offsets += [offset + (step if num_levels > 1 else 0) for offset in offsets]
        return offsets


def inverse_gaps(levels: Tensor) -> Tensor:
    """`1 / (c_{i+1} - c_i)` of each cell, `(max(num_levels - 1, 1),)`; 0 for a single level."""
    if len(levels) == 1:
        return torch.zeros_like(levels)
    return 1 / levels.diff()
