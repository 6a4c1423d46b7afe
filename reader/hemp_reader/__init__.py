"""Read `.hemp` files with NumPy alone.

- `load` gives the tensors of a file as arrays;
- `inspect` tells what is in it, `verify` that it is whole;
- `python -m hemp_reader FILE -o OUTPUT` makes an `.npz` or `.safetensors` file of it.

With the extra `fast`, numba compiles the loops, for the same results.
"""

from hemp_reader.errors import HempFileError
from hemp_reader.reading import inspect, load, verify
from hemp_reader.summary import Summary, TensorSummary
from hemp_reader.version import __version__

__all__ = [
    "HempFileError",
    "Summary",
    "TensorSummary",
    "__version__",
    "inspect",
    "load",
    "verify",
]
