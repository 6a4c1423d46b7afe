"""What is the rate? The entropy of quantized weights, and its gradient."""

from hemp_lightning.entropy.context_lengths import context_lengths, rate_and_gradients
from hemp_lightning.entropy.formula import (
    entropy_and_gradients,
    index_entropy,
    network_entropy,
    soft_entropy,
)

__all__ = [
    "context_lengths",
    "entropy_and_gradients",
    "index_entropy",
    "network_entropy",
    "rate_and_gradients",
    "soft_entropy",
]
