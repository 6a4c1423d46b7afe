"""Post-training quantization: float training, then one file, no word from the method in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from hemp_lightning.file.save import save
from hemp_lightning.suite.baselines.weights import network_of


class PostTraining(Callback):
    """Quantize the network when training has ended and write the file.

    Args:
        path: The file to write.
        quantizer: `"uniform"`, `"lloyd_max"` or `"entropy_constrained"`.
        num_levels: Levels of each weight tensor.
        coder: Name of the coder of the indices.

    Attributes:
        summary: Sizes of the written file; None before the end of training.
    """

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
        self.path = Path(path)
        self.quantizer = quantizer
        self.num_levels = num_levels
        self.coder = coder
        self.name = name
        self.summary: Any = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, on one process."""
        if trainer.is_global_zero:
            self.summary = save(
                network_of(pl_module),
                self.path,
                num_levels=self.num_levels,
                quantizer=self.quantizer,
                coder=self.coder,
                float_dtype="steps",
                fold_norms=True,
                reorder_units=True,
            )
