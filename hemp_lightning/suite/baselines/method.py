"""What methods that write a file have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from hemp_lightning.file.save import save
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.baselines.weights import network_of


class Method(Callback):
    """A way to a small file: it trains, or not, and writes the file when training has ended.

    One that changes the training also has a `start_epoch`, the epoch at which it begins to.

    Args:
        path: The file to write; None for none.
        coder: Name of the coder of the indices.
        name: What the results call it.
        num_levels: Most levels of a weight tensor; None if they are not counted.

    Attributes:
        summary: Sizes of the written file; None before the end of training.
        order: Length of the tuples whose entropy is minimized; None without an entropy term.
        lambda_entropy: Loss units per bit per weight; None without an entropy term.
        without_term: Why HEMPCallback refuses to stand beside it; None where it does not.
    """

    order: int | None = None
    lambda_entropy: float | None = None
    without_term: str | None = None

    def __init__(
        self,
        path: str | Path | None,
        coder: str,
        name: str,
        num_levels: int | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.coder = coder
        self.name = name
        self.num_levels = num_levels
        self.summary: Any = None

    def codebooks(self, pl_module: LightningModule) -> Mapping[str, Codebook] | None:
        """Codebooks of the trained weights, by name; None to fit them when the file is written."""
        return None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, on one process."""
        if trainer.is_global_zero and self.path is not None:
            self.summary = self.write(pl_module, self.codebooks(pl_module))

    def write(
        self,
        pl_module: LightningModule,
        codebooks: Mapping[str, Codebook] | None,
        **options: Any,
    ) -> Any:
        """Write the file with norms folded and silent units last, as all methods do.

        Args:
            pl_module: Its network is written.
            codebooks: Codebooks by name; None to fit them.
            options: More keywords of `save`.
        """
        assert self.path is not None
        return save(
            network_of(pl_module),
            self.path,
            codebooks=codebooks,
            coder=self.coder,
            float_dtype="steps",
            fold_norms=True,
            reorder_units=True,
            **options,
        )
