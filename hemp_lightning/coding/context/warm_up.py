"""Compiling the loops of the context coders before something is timed."""

from __future__ import annotations

from itertools import product

import numpy as np

from hemp_lightning.coding.context.coder import ContextCoder
from hemp_lightning.coding.context.fast_coder import FastCoder
from hemp_lightning.coding.context.payload import encode_with
from hemp_reader.coding.context.options import Options
from hemp_reader.coding.indices import index_dtype


def warm_up() -> None:
    """Compile the loops, or load them from numba's cache, so that no timing counts it."""
    for coder, num_levels in product((ContextCoder(), FastCoder()), (6, 257)):
        indices = np.arange(6, dtype=index_dtype(num_levels)).reshape(2, 3)
        coder.encode(indices, num_levels)
        coder.rate(indices, num_levels)
        for options in (Options(), Options(plain=True)):  # `encode` would choose one of them
            data = encode_with(indices, num_levels, options, coder._code)
            coder.decode(data, indices.shape, num_levels)
