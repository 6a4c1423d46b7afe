"""Sizes and limits of the models of the context coders; FORMAT.md has them."""

from __future__ import annotations

import numpy as np

NUM_CORRECTIONS = 33
MIXED_DIGITS = 5  # of a binary magnitude; the digits below are predicted by order 0 alone
LOW_NODES = 1024  # prefixes of the magnitude that have a counter for their next low digit
LINE_NODES = 8  # nodes that have a counter for each row and each column
MIN_LINE = 8  # rows and columns shorter than this have none of their own
MAX_KERNEL = 64
DEGREES = 4  # sums of frequencies that share a counter of a row; the last one has all beyond
TUPLE_CYCLE = 12  # the least common multiple of tuple lengths 1, 2, 3, 4 and 6

FAST_DIGITS = 8  # of a binary magnitude; the digits below are equally likely
FAST_LIMIT = 254  # a counter's rate never falls below 1 / (FAST_LIMIT + 1.5)
# Class of near magnitudes: each up to 3, then two, from 12 on four share one.
NEAR = np.array(
    [x if x < 4 else 4 + (x - 4) // 2 if x < 12 else min(8 + (x - 12) // 4, 15) for x in range(64)],
    np.uint64,
)
