"""What HEMP is compared with: other ways to a small file, and pruning to go with any of them."""

from __future__ import annotations

from hemp_lightning.suite.baselines.deep_compression import DeepCompression
from hemp_lightning.suite.baselines.filters import FilterPruning
from hemp_lightning.suite.baselines.lobster import LOBSTER
from hemp_lightning.suite.baselines.lsq import LSQ
from hemp_lightning.suite.baselines.nncodec import NNCodec
from hemp_lightning.suite.baselines.post_training import PostTraining
from hemp_lightning.suite.baselines.pruning import KeepZeros, MagnitudePruning

__all__ = [
    "LOBSTER",
    "LSQ",
    "DeepCompression",
    "FilterPruning",
    "KeepZeros",
    "MagnitudePruning",
    "NNCodec",
    "PostTraining",
]
