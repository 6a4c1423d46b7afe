"""Writing a file all or nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file may be written.

    Raises:
        IsADirectoryError: If it is a folder.
        FileExistsError: If it is a device, a pipe, or something else that is no regular file. A
            link is followed.

    Example:
        >>> check_target("/dev/null")
        Traceback (most recent call last):
        FileExistsError: `path` must be a regular file or a new one; found /dev/null, ...
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"`path` must be a file; found the folder {os.fspath(path)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileExistsError(
            f"`path` must be a regular file or a new one; found {os.fspath(path)}, a device or pipe"
        )


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, if nothing went wrong.

    Whatever happens, `path` is the old file or the new one, whole and on the disk.

    Raises:
        FileNotFoundError: If the folder does not exist.
        IsADirectoryError, FileExistsError: As `check_target`.
    """
    check_target(path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"`path` must lie in a folder that exists; found {os.fspath(path)}")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.open("xb").close()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # whoever wrote it may have put another file in its place
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
