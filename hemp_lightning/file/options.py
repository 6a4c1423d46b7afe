"""How a file is written, in one checked object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hemp_lightning.coding import CODERS
from hemp_lightning.coding.tuples.counting import check_order
from hemp_lightning.file.cells import CELLS
from hemp_lightning.file.format.storages import FLOAT_DTYPES
from hemp_lightning.ground.scan_order import check_scan
from hemp_lightning.quantization.transforms import check_transform


@dataclass(frozen=True)
class FileOptions:
    """How a file is written; `save` takes the same words.

    Args:
        coder: Coder of the indices, a name of `hemp_lightning.coding.CODERS`.
        float_dtype: How float32 tensors that are not quantized are held: `float16`, `bfloat16`,
            `float32`, or `steps`; see `save`.
        fold_norms: Write each BatchNorm as two numbers a channel instead of four; see `save`.
        reorder_units: Put hidden units that fell silent behind the others; see `save`.
        order: Length of the tuples, for the coder `tuples` and the entropies of the summary.
        scan: Scan order of the tuples, one of `hemp_lightning.ground.scan_order.SCANS`.
        transform: What is done to kernels before they are quantized; see `save`.
        cells: Which level a weight takes, one of `hemp_lightning.file.cells.CELLS`; see `save`.

    Raises:
        TypeError: If a value has a wrong type.
        ValueError: If a value is out of range.

    Example:
        >>> FileOptions(coder="fast").float_dtype
        'float16'
    """

    coder: str = "context"
    float_dtype: str = "float16"
    fold_norms: bool = False
    reorder_units: bool = False
    order: int = 2
    scan: str = "row_major"
    transform: str | Mapping[str, str] = "auto"
    cells: str = "auto"

    def __post_init__(self) -> None:
        for name, words in (
            ("coder", CODERS),
            ("float_dtype", FLOAT_DTYPES),
            ("cells", CELLS),
        ):
            word = getattr(self, name)
            if word not in words:
                raise ValueError(f"`{name}` must be one of {', '.join(words)}; found {word!r}")
        for name in ("fold_norms", "reorder_units"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be True or False; found {getattr(self, name)!r}")
        check_order(self.order)
        check_scan(self.scan)
        check_transform(self.transform)
