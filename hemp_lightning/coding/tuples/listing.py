"""Which tuples are listed in a payload, and which are spelled out level by level."""

from __future__ import annotations

import numpy as np

from hemp_reader.coding.tuples.count_table import MAX_LISTED, PRECISION, CountTable

_RARE = (1, 2, 3, 4, 6, 10, 18)  # what occurs less often than this may be spelled out


def choose_listed(
    cells: np.ndarray, counts: np.ndarray, order: int, num_levels: int
) -> tuple[np.ndarray, list[CountTable]]:
    """Which tuples to list, bool `(U,)`, and the tables: of tuples; of levels, if some are spelled.

    The frequent ones: how frequent is tried out, and the least number of bytes wins.
    """
    digits = np.stack(
        [cells // num_levels**place % num_levels for place in reversed(range(order))], axis=1
    )
    best: tuple[float, np.ndarray, list[CountTable]] | None = None
    previous = -1
    for least in (*_RARE, int(counts.max()) + 1):
        listed = counts >= least
        size = int(listed.sum())
        if size == previous or size > MAX_LISTED:
            continue
        previous = size
        rare = counts[~listed]
        tables = [CountTable.count(cells[listed], counts[listed], int(rare.sum()))]
        occurrences = [np.concatenate([[rare.sum()] if size < len(cells) else [], counts[listed]])]
        if size < len(cells):
            spelled = np.zeros(num_levels, np.int64)
            for place in range(order):
                np.add.at(spelled, digits[~listed, place], rare)
            levels = np.flatnonzero(spelled)
            tables.append(CountTable.count(levels, spelled[levels], 0))
            occurrences.append(spelled[levels])
        total = 0.0
        for table, how_often in zip(tables, occurrences, strict=True):
            bits = how_often * (PRECISION - np.log2(table.weights()))
            total += len(table.to_bytes()) + float(bits.sum()) / 8
        if best is None or total < best[0]:
            best = total, listed, tables
    assert best is not None  # listing nothing is always possible
    return best[1], best[2]
