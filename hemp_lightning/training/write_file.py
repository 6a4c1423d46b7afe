"""The file of a training: checked before the first batch, written after the last one."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from hemp_lightning.file import state
from hemp_lightning.file.choose import left_in_float, warn_of_floats
from hemp_lightning.file.load import load
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.save import save, size_of
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.training.quantized_network import QuantizedNetwork
from hemp_lightning.training.recalibration import recalibrate
from hemp_lightning.training.target_steering import Approach, index_rate
from hemp_reader.replacing import check_target
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


def check_path(path: Path) -> None:
    """Refuse a path at which no file could be written, before anything is trained.

    Its folders need not exist.

    Raises:
        IsADirectoryError: If it is a folder.
        FileExistsError: If it is a device or a pipe.
        NotADirectoryError: If one of its folders is a file.
        PermissionError: If its folder must not be written to.

    Example:
        >>> check_path(Path("runs/one/model.hemp"))
    """
    check_target(path)
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir():
        raise NotADirectoryError(f"`path` must lie in a folder; found {path}, and {folder} is none")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"`path` must lie in a folder that may be written to; found {path} in {folder}"
        )


def fingerprint(module: nn.Module) -> dict[str, int]:
    """A checksum of each tensor in the `state_dict` of a module, by name.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = nn.init.zeros_(layer.bias)
        >>> [name for name, value in fingerprint(layer).items() if value != before[name]]
        ['bias']
    """
    return {
        name: zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        for name, tensor in module.state_dict().items()
    }


class TrainedFile:
    """The file of a network that is trained on levels.

    Args:
        network: What it holds.
        approach: Knows the size that it may have.
        options: How it is written.
        order: Length n of the tuples.
        scan: Scan order of the tuples.

    Attributes:
        summary: The sizes of what was written; None before, and on other processes than the first.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        approach: Approach,
        options: FileOptions,
        order: int,
        scan: str,
    ) -> None:
        self.network = network
        self.approach = approach
        self.options = options
        self.order = order
        self.scan = scan
        self.summary: Summary | None = None
        self._path: Path | None = None
        self._written: dict[str, int] = {}  # what the network was when it was written

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
            OSError: If `path` cannot be written.
        """
        if path is None:
            return
        check_path(path)
        root = self.network.root(pl_module)
        check_state(root)
        if self.approach.target_bytes is not None:
            self.approach.check_least(self.sizes(pl_module, self._least_codebooks()).file_bytes)
        if tensors in ("weights", "layers") and pl_module.global_rank == 0:
            warn_of_floats(left_in_float(root, self.network.parameters))

    def finish(
        self, trainer: Trainer, pl_module: LightningModule, path: Path, recalibrate_batches: int
    ) -> None:
        """Take BatchNorm statistics anew, keep to the size, and write the file.

        Args:
            trainer: Trainer whose fit ends; with `fast_dev_run` nothing is written.
            pl_module: Its LightningModule.
            path: The file; its folder is made.
            recalibrate_batches: See `recalibrate`.

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
                self.summary = self.sizes(pl_module)
            elif trainer.is_global_zero:
                self.summary = self._write(pl_module, path)
                self._path, self._written = path, fingerprint(self.network.root(pl_module))
        except Exception as error:
            rank_zero_warn(
                f"HEMPCallback could not write {path}: {error}. The trained weights are in "
                "the module; `hemp_lightning.save` writes them once the reason is gone"
            )
            raise
        finally:
            self.network.release()

    def sizes(
        self, pl_module: LightningModule, codebooks: Mapping[str, Codebook] | None = None
    ) -> Summary:
        """The summary of the file that these codebooks would make; None for those of now."""
        codebooks = self.network.codebooks if codebooks is None else codebooks
        options = replace(self.options, order=self.order, scan=self.scan)
        with self.network.showing(pl_module, codebooks) as root:
            return size_of(root, codebooks=_nearest(codebooks), options=options)

    def measure(self, pl_module: LightningModule) -> None:
        """Tell what the file would weigh now, if its size is steered."""
        if self.approach.target_bytes is not None:
            summary = self.sizes(pl_module)
            self.approach.measure(summary, self.network.codebooks, self.index_rate())

    def is_stale(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether weights were set anew after the file was written, other than from the file.

        All processes get the answer of the first, and a warning if it is yes.
        """
        stale = trainer.strategy.broadcast(self._is_changed(self.network.root(pl_module)))
        if stale:
            rank_zero_warn(
                f"Weights were set anew after HEMPCallback had written {self._path}, in "
                "`on_train_end` of the module or of another callback: the file is written again"
            )
        return stale

    def _is_changed(self, root: nn.Module) -> bool:
        if self._path is None or fingerprint(root) == self._written:
            return False
        state, written = root.state_dict(), load(self._path)
        return state.keys() != written.keys() or not all(
            torch.equal(tensor.detach().cpu(), written[name]) for name, tensor in state.items()
        )

    def _least_codebooks(self) -> dict[str, Codebook]:
        """Codebooks that make every weight 0: no file is smaller than with these."""
        return {
            name: Codebook(torch.zeros(1, device=weights.device))
            for name, weights in self.network.parameters.items()
        }

    def index_rate(self) -> float:
        """Entropy of the indices as they are now, in bits per weight."""
        return index_rate(self.network.parameters, self.network.codebooks, self.order, self.scan)

    def _land(self, pl_module: LightningModule) -> None:
        self.network.codebooks = self.approach.land(
            {name: weights.detach() for name, weights in self.network.parameters.items()},
            self.network.codebooks,
            lambda codebooks: self.sizes(pl_module, codebooks).file_bytes,
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
