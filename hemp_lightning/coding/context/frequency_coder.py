"""The context coder for kernels whose places are frequencies."""

from __future__ import annotations

from hemp_lightning.coding.context.coder import ContextCoder
from hemp_reader.coding.context.decoder import FrequencyDecoder


class FrequencyCoder(ContextCoder, FrequencyDecoder):
    """The context coder for the coefficients of a transform, which lie where the weights lay.

    Five of the eight contexts are those of the context coder. Two others hold the differences two
    places back along each axis of the kernel, whose signs are related: one of them with the
    frequency itself, one with the lowest frequency. The last one counts each filter by degrees,
    the sums of the frequencies along the axes.

    Example:
        >>> import numpy as np
        >>> indices = np.zeros((16, 8, 3, 3), np.uint8)
        >>> indices[:, ::2, 0, 0] = indices[:, ::2, 0, 2] = 2
        >>> data = FrequencyCoder().encode(indices, num_levels=3)
        >>> len(data), bool((FrequencyCoder().decode(data, indices.shape, 3) == indices).all())
        (9, True)
    """


def context_coder(transform: str) -> ContextCoder:
    """The context coder for indices of tensors with that transform.

    Example:
        >>> context_coder("none").name, context_coder("dct").name
        ('context', 'frequency')
    """
    return ContextCoder() if transform == "none" else FrequencyCoder()
