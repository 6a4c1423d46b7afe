"""The file of a training: checked before the first batch, written after the last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from hemp_lightning.file import state
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.save import save, size_of
from hemp_lightning.file.summary import Summary
from hemp_lightning.quantization.codebook import Codebook


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


def write_quantized(
    path: Path,
    module: nn.Module,
    codebooks: Mapping[str, Codebook],
    options: FileOptions,
    order: int,
    scan: str,
) -> Summary:
    """Write a module that shows its quantized weights now.

    Args:
        path: The file; its folder is made.
        module: What the file holds.
        codebooks: Codebooks by the names of the module's parameters.
        options: How it is written.
        order: Length n of the tuples.
        scan: Scan order of the tuples.

    Returns:
        The sizes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(
        module,
        path,
        coder=options.coder,
        codebooks=_nearest(codebooks),
        order=order,
        scan=scan,
        float_dtype=options.float_dtype,
        fold_norms=options.fold_norms,
        reorder_units=options.reorder_units,
        cells="nearest",
    )


def size_quantized(
    module: nn.Module,
    codebooks: Mapping[str, Codebook],
    options: FileOptions,
    order: int,
    scan: str,
) -> Summary:
    """The summary of the file that `write_quantized` would write; nothing stays on the disk."""
    return size_of(
        module,
        codebooks=_nearest(codebooks),
        options=replace(options, order=order, scan=scan, cells="nearest"),
    )


def _nearest(codebooks: Mapping[str, Codebook]) -> dict[str, Codebook]:
    """Codebooks for weights that are at their levels, which trimmed thresholds might move."""
    return {
        name: Codebook(book.levels.cpu(), transform=book.transform)
        for name, book in codebooks.items()
    }
