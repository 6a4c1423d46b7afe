"""How a file is written, in one checked object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hemp_lightning.coding import CODERS
from hemp_lightning.file.cells import CELLS
from hemp_lightning.file.format.storages import FLOAT_DTYPES
from hemp_lightning.quantization.transforms import check_transform
from hemp_reader.coding.tuples.counting import check_order
from hemp_reader.scan_order import check_scan


@dataclass(frozen=True)
class FileOptions:
    """How a file is written; `save` takes the same words.

    Args:
        coder: Coder of the indices, a name of `hemp_lightning.coding.CODERS`. `context` gives way
            to a simpler coder where that is smaller.
        float_dtype: How float32 tensors that are not quantized are held. `float16` or `bfloat16`:
            so, where that moves each entry by at most `2^-11` or `2^-8` of itself or by `2^-22` of
            the largest entry; else exactly, as with `float32`. `steps`: biases, norm scales and
            statistics, all with at most one axis, on steps of a sixteenth or less of their
            deviation, see `round_to_steps`; the others, and biases of recurrent layers, as with
            `float16`. Steps are for networks that were trained or measured with them. Every other
            dtype is always held exactly.
        fold_norms: Say each BatchNorm in two numbers a channel and not four, see `folded_state`:
            the file is smaller by half of its norms and the network computes the same in evaluation
            mode, but is no longer one to train further. Needs a module, which knows its norms.
        reorder_units: Put hidden units that fell silent behind the others, and leave out weights
            that listen to units which are always 0, see `reordered_state`: the file is smaller and
            the network computes the same, with its hidden units in another order. Needs a module,
            which knows its layers.
        order: Length of the tuples, for the coder `tuples` and for the entropies of the summary.
        scan: Scan order of the tuples, for the same.
        transform: What is done to kernels before they are quantized. `dct`: the coefficients of
            their cosine transform are quantized, which takes fewer bits where kernels are smooth;
            `none`: the weights themselves; `auto`: for each tensor what probably takes fewer bits;
            or these by the names of tensors, of which the others have none. Tensors without
            kernels of more than one place have none.
        cells: Which level a weight takes. `nearest`: the one of its codebook's cell; `priced`: the
            one of least error and code length, see `assign_priced`, with the coders `context`,
            `frequency` and `fast`; `auto`: `priced` with `num_levels` levels of the quantizer
            `uniform`, else `nearest`.

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
