"""The file of a training: checked before the first batch, written after the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from hemp_lightning.file import state
from hemp_lightning.file.choose import left_in_float, warn_of_floats
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.save import save, size_of
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.training.quantized_network import QuantizedNetwork
from hemp_lightning.training.recalibration import recalibrate
from hemp_lightning.training.target_steering import Approach, index_rate
from hemp_reader.summary import Summary


def check_state(module: nn.Module) -> None:
    """Refuse a module whose `state_dict` no file can hold, before it is trained.

    Raises:
        ValueError: If an entry is of a kind that no file holds.
        TypeError: If an entry is no tensor, such as the extra state of a module.

    Example:
        >>> check_state(nn.Linear(2, 2))
    """
    try:
        state.check_state(module)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"HEMPCallback could not write its file after training: {error}. Change the module, "
            "or give the callback `module`, the part of it that the file is to hold"
        ) from None


@dataclass(frozen=True)
class TrainedFile:
    """The file of a network that is trained on levels.

    Args:
        network: What it holds.
        approach: Knows the size that it may have.
        options: How it is written.
        order: Length n of the tuples.
        scan: Scan order of the tuples.
    """

    network: QuantizedNetwork
    approach: Approach
    options: FileOptions
    order: int
    scan: str

    def check(
        self, pl_module: LightningModule, path: Path | None, tensors: str | Sequence[str]
    ) -> None:
        """Refuse what could not be written after training; warn of large tensors left in float.

        Args:
            pl_module: The module that will be trained.
            path: The file to write; None for none.
            tensors: What the user chose.

        Raises:
            ValueError: If an entry is of a kind that no file holds.
            TypeError: If an entry is no tensor.
            IsADirectoryError: If `path` is a folder.
        """
        if path is None:
            return
        if path.is_dir():
            raise IsADirectoryError(f"`path` must be a file; found the folder {path}")
        root = self.network.root(pl_module)
        check_state(root)
        if tensors in ("weights", "layers") and pl_module.global_rank == 0:
            warn_of_floats(left_in_float(root, self.network.parameters))

    def finish(
        self, trainer: Trainer, pl_module: LightningModule, path: Path, recalibrate_batches: int
    ) -> Summary | None:
        """Take BatchNorm statistics anew, keep to the size, and write the file.

        Args:
            trainer: Trainer whose fit ends; with `fast_dev_run` nothing is written.
            pl_module: Its LightningModule.
            path: The file; its folder is made.
            recalibrate_batches: See `recalibrate`.

        Returns:
            The sizes; None on other processes than the first.

        Raises:
            Exception: What kept the file from being written; the weights stay in the module.
        """
        try:
            self._land(pl_module)
            self.network.quantize(pl_module)
            recalibrate(trainer, pl_module, self.network.root(pl_module), recalibrate_batches)
            self.network.release()
            self._land(pl_module)  # other statistics may take more bytes
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                return self.summary(pl_module)
            return self._write(pl_module, path) if trainer.is_global_zero else None
        except Exception as error:
            rank_zero_warn(
                f"HEMPCallback could not write {path}: {error}. The trained weights are in "
                "the module; `hemp_lightning.save` writes them once the reason is gone"
            )
            raise
        finally:
            self.network.release()

    def summary(
        self, pl_module: LightningModule, codebooks: Mapping[str, Codebook] | None = None
    ) -> Summary:
        """The summary of the file that these codebooks would make; None for those of now."""
        codebooks = self.network.codebooks if codebooks is None else codebooks
        options = replace(self.options, order=self.order, scan=self.scan)
        with self.network.showing(pl_module, codebooks) as root:
            return size_of(root, codebooks=_nearest(codebooks), options=options)

    def index_rate(self) -> float:
        """Entropy of the indices as they are now, in bits per weight."""
        return index_rate(self.network.parameters, self.network.codebooks, self.order, self.scan)

    def _land(self, pl_module: LightningModule) -> None:
        self.network.codebooks = self.approach.land(
            {name: weights.detach() for name, weights in self.network.parameters.items()},
            self.network.codebooks,
            lambda codebooks: self.summary(pl_module, codebooks).file_bytes,
        )

    def _write(self, pl_module: LightningModule, path: Path) -> Summary:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.network.showing(pl_module, self.network.codebooks) as root:
            return save(
                root,
                path,
                coder=self.options.coder,
                codebooks=_nearest(self.network.codebooks),
                order=self.order,
                scan=self.scan,
                float_dtype=self.options.float_dtype,
                fold_norms=self.options.fold_norms,
                reorder_units=self.options.reorder_units,
                cells="nearest",
            )


def _nearest(codebooks: Mapping[str, Codebook]) -> dict[str, Codebook]:
    """Codebooks for weights at their levels, which trimmed thresholds may put in another cell."""
    return {
        name: Codebook(book.levels.cpu(), transform=book.transform)
        for name, book in codebooks.items()
    }
