"""What are the levels? Codebooks, the quantizers that fit them, and what is quantized."""

from hemp_lightning.quantization.bounded import BoundedQuantizer
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import (
    QUANTIZERS,
    EntropyConstrainedQuantizer,
    LloydMaxQuantizer,
    Quantizer,
    UniformQuantizer,
    get_quantizer,
)
from hemp_lightning.quantization.selection import select_tensors

__all__ = [
    "QUANTIZERS",
    "BoundedQuantizer",
    "Codebook",
    "EntropyConstrainedQuantizer",
    "LloydMaxQuantizer",
    "Quantizer",
    "UniformQuantizer",
    "get_quantizer",
    "select_tensors",
]
