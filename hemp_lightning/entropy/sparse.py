"""Tables that hold only the cells in use, for any order."""

from __future__ import annotations

import numpy as np

from hemp_lightning.entropy import sparse_loops as loops
from hemp_lightning.entropy.evaluation import Arrays
from hemp_lightning.entropy.logarithms import finish


def count_sparse(arrays: Arrays, with_gradient: bool) -> float:
    """Tables that hold only the cells in use."""
    layout = arrays.layout
    tables = [
        (np.full(1024 << layout.order, -1, np.int64), np.zeros(1024 << layout.order), 0)
        for _ in layout.table_levels
    ]
    offsets = [np.array(layout.corner_offsets(count)) for count in layout.table_levels]
    for segment, table in enumerate(layout.tables):
        arrays.locate(segment)
        cells, fractions = (arrays.view(a, segment) for a in (arrays.cells, arrays.fractions))
        tables[table] = loops.accumulate(
            cells,
            fractions,
            layout.tuples[segment],
            layout.order,
            layout.table_levels[table],
            offsets[table],
            *tables[table],
        )
    bits = 0.0
    logs = []
    for table, (_, masses, _) in enumerate(tables):
        logs.append(np.empty(len(masses)))
        bits -= finish(masses, 1, len(masses), logs[table])
        bits += arrays.total_bits(table)
    for segment, table in enumerate(layout.tables if with_gradient else []):
        loops.gradient(
            arrays.view(arrays.cells, segment),
            arrays.view(arrays.fractions, segment),
            layout.tuples[segment],
            layout.order,
            arrays.scaled[segment],
            layout.table_levels[table],
            offsets[table],
            tables[table][0],
            logs[table],
        )
    return bits
