"""Tables of which two rows exist at a time."""

from __future__ import annotations

import numpy as np

from hemp_lightning.entropy import row_loops as loops
from hemp_lightning.entropy.evaluation import Arrays
from hemp_lightning.entropy.logarithms import LINE
from hemp_lightning.ground.threads import run_jobs


def count_rows(arrays: Arrays, with_gradient: bool) -> float:
    """Tables two rows at a time: cells that share the indices of their leading weights.

    Tuples are sorted by the cells of their leading weights. A row is touched by those in a few
    neighbouring buckets: it is filled, turned into logarithms where something was added, and
    contracted, while it stays in a near cache. No more than two rows exist at any time.
    """
    jobs = [[(table, 0, count, 0)] for table, count in enumerate(arrays.totals)]
    bits = [0.0] * len(jobs)

    def run(job: tuple[int, int, int, int]) -> None:
        bits[job[0]] = _count_table(arrays, job[0], with_gradient)

    run_jobs(run, jobs)
    return sum(bits)


def _count_table(arrays: Arrays, table: int, with_gradient: bool) -> float:
    """One table of `count_rows`."""
    layout, order = arrays.layout, arrays.layout.order
    num_levels, tuples = layout.table_levels[table], arrays.totals[table]
    lead = layout.lead(num_levels)
    inner = num_levels ** (order - lead)
    leading = tuple(step // inner for step in arrays.steps[table][:lead])
    steps = arrays.steps[table][lead:]
    segments = [s for s, t in enumerate(layout.tables) if t == table]
    counts = np.zeros(num_levels**lead, np.int64)
    for segment in segments:
        arrays.locate(segment)
        loops.count_buckets_of(arrays.view(arrays.cells, segment), order, leading, counts)
    shifts = np.zeros(1, np.int64)
    for stride in leading[:-1]:  # one corner of those weights after the other
        shifts = np.concatenate([shifts, shifts + stride])
    # as many empty buckets in front as the corners of the first row reach for
    begins = np.concatenate([np.zeros(shifts[-1] + 1, np.int64), np.cumsum(counts)])
    heads = begins[shifts[-1] : -1].copy()
    # one piece of memory, which numpy asks the system for in large pages
    places, slopes, rest = np.split(
        np.empty(tuples * (2 * order + 2), arrays.dtype),
        tuples * np.array([order + 1, 2 * order + 1]),
    )
    integer = np.int32 if arrays.dtype == np.float32 else np.int64
    numbers = places.view(integer)
    ends = np.cumsum([layout.tuples[segment] for segment in segments])
    listed = np.split(rest.view(integer), ends[:-1])
    for segment, found in zip(segments, listed, strict=True):
        views = arrays.view(arrays.cells, segment), arrays.view(arrays.fractions, segment)
        loops.sort_tuples(*views, leading, steps, heads, places, numbers, found)
    pitch = -(-inner // LINE) * LINE
    bits = loops.rows(
        places,
        numbers,
        begins,
        num_levels ** (lead - 1),
        num_levels,
        shifts[-1] - shifts,
        leading,
        (pitch, *arrays.strides[table][lead:]),
        np.zeros(2 * pitch),
        np.empty(2 * pitch, arrays.dtype),
        slopes,
        with_gradient,
    )
    for segment, found in zip(segments, listed, strict=True) if with_gradient else ():
        views = arrays.view(arrays.cells, segment), arrays.view(arrays.fractions, segment)
        loops.spread(*views, arrays.scaled[segment], arrays.steps[table], found, slopes)
    return arrays.total_bits(table) - bits
