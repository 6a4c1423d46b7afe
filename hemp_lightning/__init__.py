"""Train networks whose weights entropy-code into little, and write them as one small file.

- `HEMPCallback` trains with the entropy term, on any LightningModule and Trainer;
- `save` writes a model or state_dict as a .hemp file;
- `load` and `load_into` read it back.
"""

from typing import Any

from hemp_lightning.errors import HempFileError
from hemp_lightning.file.container import load, load_into, save
from hemp_lightning.version import __version__

__all__ = [
    "FileOptions",
    "HEMPCallback",
    "HempFileError",
    "__version__",
    "load",
    "load_into",
    "save",
]


def __getattr__(name: str) -> Any:
    # Reading a file does not wait for Lightning to be imported.
    if name in ("FileOptions", "HEMPCallback"):
        from hemp_lightning.training import callback

        return getattr(callback, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
