"""How the loops of the kernels are compiled by numba.

Numba's cache compares the time of the file that a function stands in, not of those that it calls
into: what is compiled into a loop belongs in its file. Nor is a loop a closure, which numba finds
in its cache in no other process than its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import config, njit
from numba.extending import overload

jit: Any = partial(njit, nogil=True, cache=True, error_model="numpy")
fused: Any = partial(jit, fastmath={"contract"})  # a product and a sum in one instruction
inlined: Any = njit(inline="always")
unrolled: Any = partial(overload, jit_options={"forceinline": True, "error_model": "numpy"})

IS_COMPILED = not config.DISABLE_JIT  # type: ignore[attr-defined]
"""False under `NUMBA_DISABLE_JIT=1`, where the loops run as plain Python and torch is faster."""
