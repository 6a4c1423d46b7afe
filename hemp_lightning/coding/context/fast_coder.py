"""The fast coder: the decisions of the context coder, each predicted by one counter."""

from __future__ import annotations

from hemp_lightning.coding.context.coder import ContextCoder
from hemp_reader.coding.context.decoder import FastDecoder


class FastCoder(ContextCoder, FastDecoder):
    """Adaptive contexts without mixing: larger files than `ContextCoder` by a few percent, sooner.

    Example:
        >>> import numpy as np
        >>> indices = np.zeros((64, 64), np.uint8)
        >>> indices[5, ::7] = 2
        >>> data = FastCoder().encode(indices, num_levels=3)
        >>> len(data), bool((FastCoder().decode(data, (64, 64), 3) == indices).all())
        (13, True)
    """
