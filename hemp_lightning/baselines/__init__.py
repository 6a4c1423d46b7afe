"""What HEMP is compared with: other ways to a small file, and pruning to go with any of them."""

from __future__ import annotations

from hemp_lightning.baselines.deep_compression import DeepCompression
from hemp_lightning.baselines.lsq import LSQ
from hemp_lightning.baselines.nncodec import NNCodec
from hemp_lightning.baselines.post_training import PostTraining
from hemp_lightning.baselines.pruning import LOBSTER, MagnitudePruning

__all__ = [
    "LOBSTER",
    "LSQ",
    "DeepCompression",
    "MagnitudePruning",
    "NNCodec",
    "PostTraining",
]
