"""The loops of `sorted_weights`: weights in buckets, by their leading bits."""

from __future__ import annotations

import numpy as np

from hemp_reader.numba_tools import inlined, jit


@inlined
def _bucket(bits, shift):  # type: ignore[no-untyped-def]
    """Leading bits of a float32, given as int32, in the order of the numbers; -0.0 is 0.0."""
    wide = np.int64(bits)
    key = wide if wide >= 0 else -(wide & 0x7FFFFFFF) - 1  # the further from 0, the lower
    return ((key if key != -1 else np.int64(0)) + (np.int64(1) << 31)) >> shift


@jit
def bucket_of(bits, shift, keys):  # type: ignore[no-untyped-def]
    """Bucket of each number."""
    for p in range(bits.shape[0]):
        keys[p] = _bucket(bits[p], shift)


@jit
def count_buckets(bits, shift, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` the weights of each bucket."""
    for p in range(bits.shape[0]):
        counts[_bucket(bits[p], shift)] += 1


@jit
def deal(bits, shift, heads, values):  # type: ignore[no-untyped-def]
    """Put weights into their buckets, one after the other; `heads` move on."""
    target = values.view(np.int32)
    for p in range(bits.shape[0]):
        key = _bucket(bits[p], shift)
        target[heads[key]] = bits[p]
        heads[key] += 1


@jit
def sum_between(values, begins, ends, sums):  # type: ignore[no-untyped-def]
    """Sum of each run of values; the order of the additions does not depend on the machine."""
    for run in range(begins.shape[0]):
        a = b = c = d = 0.0
        begin, end = begins[run], ends[run]
        whole = begin + ((end - begin) >> 2 << 2)
        for p in range(begin, whole, 4):
            a += np.float64(values[p])
            b += np.float64(values[p + 1])
            c += np.float64(values[p + 2])
            d += np.float64(values[p + 3])
        for p in range(whole, end):
            a += np.float64(values[p])
        sums[run] = (a + b) + (c + d)


@jit
def search(values, starts, keys, thresholds, found):  # type: ignore[no-untyped-def]
    """Position of the first value, at or above each threshold, in its sorted bucket."""
    for n in range(keys.shape[0]):
        low, high = starts[keys[n]], starts[keys[n] + 1]
        while low < high:
            middle = (low + high) >> 1
            if values[middle] < thresholds[n]:
                low = middle + 1
            else:
                high = middle
        found[n] = low
