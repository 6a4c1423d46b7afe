"""The arrays that the passes of one evaluation of the soft entropy share."""

from __future__ import annotations

import numpy as np

from hemp_lightning.entropy import locating
from hemp_lightning.entropy.tables import Layout

BUCKETS = 2048


class Arrays:
    """Weights, their cells and places in them, and levels, an entry per segment or table."""

    def __init__(self, weights: list[np.ndarray], layout: Layout, scale: float) -> None:
        self.weights = weights
        self.layout = layout
        self.dtype = weights[0].dtype
        few = max(layout.table_levels) <= 256
        # One piece of memory: numpy asks the system for large pages where it is large enough.
        total = sum(map(len, weights))
        memory = np.empty(total * (self.dtype.itemsize + (1 if few else 2)), np.uint8)
        fractions, cells = np.split(memory, [total * self.dtype.itemsize])
        ends = np.cumsum([len(part) for part in weights])[:-1]
        # The place of each weight in its cell, and in the last pass its gradient instead.
        self.fractions = np.split(fractions.view(self.dtype), ends)
        self.cells = np.split(cells.view(np.uint8 if few else np.uint16), ends)
        self.totals = layout.table_tuples()
        self.levels, self.above, self.inverses, self.scaled, self.buckets = [], [], [], [], []
        infinity = self.dtype.type(np.inf)
        for entry in layout.levels:
            levels = entry.numpy().astype(self.dtype)
            gaps = np.diff(levels)
            self.inverses.append(1 / gaps if len(gaps) else np.zeros_like(levels))
            self.scaled.append(self.inverses[-1] * self.dtype.type(scale))
            if len(levels) == 1:  # a cell that no weight leaves: its inverse gap is 0
                levels = np.append(levels, levels + max(1, abs(levels[0])))
            self.levels.append(levels)
            self.above.append(np.append(levels[1:-1], infinity))  # where the next cell begins
            self.buckets.append(np.empty(BUCKETS + 1, np.uint16))
            locating.fill_buckets(levels, self.buckets[-1])
        self.steps = [layout.steps(count) for count in layout.table_levels]
        # the upper corner of a single level has no mass; it stays within the table
        self.strides = [
            steps if count > 1 else (0,) * layout.order
            for steps, count in zip(self.steps, layout.table_levels, strict=True)
        ]

    def view(self, arrays: list[np.ndarray], segment: int) -> np.ndarray:
        """The whole tuples of a segment."""
        return arrays[segment][: self.layout.tuples[segment] * self.layout.order]

    def locate(self, segment: int) -> None:
        """Cells and fractions of a segment, in a pass of their own."""
        locating.locate_all(
            self.view(self.weights, segment),
            self.levels[segment],
            self.above[segment],
            self.inverses[segment],
            self.buckets[segment],
            self.view(self.cells, segment),
            self.view(self.fractions, segment),
        )

    def total_bits(self, table: int) -> float:
        """`T log2 T` of the tuples of a table."""
        return total_bits(self.totals[table])


def total_bits(tuples: int) -> float:
    """`T log2 T` of that many tuples."""
    return tuples * float(np.log2(max(tuples, 1)))
