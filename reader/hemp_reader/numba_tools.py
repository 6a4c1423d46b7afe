"""How loops are compiled by numba, and when machine code in numba's cache is too old.

Numba compiles the constants and helpers that a loop takes from other files into the loop, but its
own cache looks at the loop's file alone. `jit` looks at the sources of all modules that the loop's
module imports from our packages as well: a change in any of them compiles the loop anew.

A loop is no closure over functions: numba finds those in its cache in no other process.

Numba is an extra of hemp-reader. Without it the loops are the Python functions that they are
written as.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import FunctionType
from typing import Any

try:
    from numba import config, njit
    from numba.core.caching import FunctionCache, IndexDataCacheFile
    from numba.extending import overload

    IS_COMPILED: bool = not config.DISABLE_JIT  # type: ignore[attr-defined]
    """False without numba and under `NUMBA_DISABLE_JIT=1`: the loops run as plain Python."""
    _HAS_NUMBA = True
except ImportError:
    IS_COMPILED = _HAS_NUMBA = False

_PACKAGES = ("hemp_reader.", "hemp_lightning.")


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a loop at its first call, or load it from numba's cache; it releases the GIL.

    Args:
        function: The loop; None for a decorator with `options`.
        **options: Further ones of `numba.njit`.

    Example:
        >>> @jit
        ... def triangle(n):
        ...     total = 0
        ...     for i in range(n + 1):
        ...         total += i
        ...     return total
        >>> triangle(4)
        10
    """
    if function is None:
        return partial(jit, **options)
    if not _HAS_NUMBA:
        return function
    compiled = njit(nogil=True, error_model="numpy", **options)(function)
    if IS_COMPILED and function.__module__.startswith(_PACKAGES):
        assert isinstance(function, FunctionType)
        with suppress(RuntimeError):  # a loop that stands in no file has no cache
            compiled._cache = _LoopCache(function)
    return compiled


def _as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


fused: Any = partial(jit, fastmath={"contract"})  # a product and a sum in one instruction
inlined: Any = _as_written  # into the code of the caller
embedded: Any = partial(jit, forceinline=True)  # into the machine code of the caller
if _HAS_NUMBA:
    inlined = njit(inline="always")
    unrolled: Any = partial(overload, jit_options={"forceinline": True, "error_model": "numpy"})

    class _LoopCache(FunctionCache):
        """Numba's cache of a loop, stamped with all sources that are compiled into it."""

        def __init__(self, function: FunctionType) -> None:
            super().__init__(function)
            self._cache_file = IndexDataCacheFile(
                self._cache_path, self._impl.filename_base, source_stamp(function.__module__)
            )


def source_stamp(module: str) -> str:
    """A hash of the sources of a module and of all that it imports from our packages.

    Example:
        >>> source_stamp("hemp_reader.version") == source_stamp("hemp_reader.errors")
        False
    """
    found = {module}
    waiting = [module]
    while waiting:
        for name in _read(waiting.pop())[1]:
            if name not in found:
                found.add(name)
                waiting.append(name)
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + b"\0" + _read(name)[0])
    return digest.hexdigest()


@cache
def _read(module: str) -> tuple[bytes, tuple[str, ...]]:
    """Hash of the source of a module, and what it imports from our packages, if it is one.

    What is read stays: the functions that run are those of the first import as well.
    """
    package, *names = module.split(".")
    spec = find_spec(package)
    for end in range(len(names)):  # `find_spec` would import the packages
        if spec is None or spec.submodule_search_locations is None:  # a name in a module
            return b"", ()
        name = ".".join([package, *names[: end + 1]])
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
    if source is None:
        return b"", ()
    return hashlib.sha256(source.encode()).digest(), tuple(_imports(ast.parse(source)))


def _imports(tree: ast.Module) -> Iterator[str]:
    """Modules of our packages that a source imports, and names that could be such modules."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.startswith(_PACKAGES))
