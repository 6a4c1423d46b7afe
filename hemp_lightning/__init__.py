"""Train networks whose weights entropy-code into little, and write them as one small file.

- `HEMPCallback` trains with the entropy term, on any LightningModule and Trainer;
- `compress` makes a small file of a trained network, without labels or a training program;
- `save` writes a model or state_dict as a .hemp file;
- `load`, `load_into` and `from_file` read it back, `inspect` and `verify` look into it.
"""

from typing import TYPE_CHECKING, Any

from hemp_lightning.file.load import from_file, load, load_into
from hemp_lightning.file.options import FileOptions
from hemp_lightning.file.save import save
from hemp_lightning.quantization import (
    Codebook,
    EntropyConstrainedQuantizer,
    LloydMaxQuantizer,
    UniformQuantizer,
)
from hemp_lightning.version import __version__
from hemp_reader.errors import HempFileError
from hemp_reader.reading import inspect, verify
from hemp_reader.summary import Summary

if TYPE_CHECKING:
    from hemp_lightning.calibration import CompressSummary, compress
    from hemp_lightning.training import HEMPCallback

__all__ = [
    "Codebook",
    "CompressSummary",
    "EntropyConstrainedQuantizer",
    "FileOptions",
    "HEMPCallback",
    "HempFileError",
    "LloydMaxQuantizer",
    "Summary",
    "UniformQuantizer",
    "__version__",
    "compress",
    "from_file",
    "inspect",
    "load",
    "load_into",
    "save",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Reading a file does not wait for Lightning to be imported.
    if name == "HEMPCallback":
        from hemp_lightning.training import HEMPCallback

        return HEMPCallback
    if name in ("CompressSummary", "compress"):
        from hemp_lightning import calibration

        return getattr(calibration, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
