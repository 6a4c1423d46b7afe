"""Post-training quantization: float training, then one file, no word from the method in between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.baselines.method import Method


class PostTraining(Method):
    """Quantize the network when training has ended and write the file.

    Args:
        path: The file to write.
        quantizer: `"uniform"`, `"lloyd_max"` or `"entropy_constrained"`.
        num_levels: Levels of each weight tensor.
        coder: Name of the coder of the indices.
        name: What the results call it.
    """

    without_term = "which quantizes a network that was trained in float"
    num_levels: int

    def __init__(
        self,
        path: str | Path,
        quantizer: str = "lloyd_max",
        num_levels: int = 16,
        coder: str = "context",
        name: str = "lloyd_max",
    ) -> None:
        if num_levels < 2:
            raise ValueError(f"`quantization.num_levels`: expected 2 or more; found {num_levels}")
        super().__init__(path, coder, name, num_levels=num_levels)
        self.quantizer = quantizer

    def write(
        self,
        pl_module: LightningModule,
        codebooks: Mapping[str, Codebook] | None,
        **options: Any,
    ) -> Any:
        """Write the file, its codebooks fitted now."""
        fitted = {"num_levels": self.num_levels, "quantizer": self.quantizer}
        return super().write(pl_module, codebooks, **fitted, **options)
