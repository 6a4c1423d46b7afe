"""The one exception that a broken file raises, and words that messages share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class HempFileError(Exception):
    """A file that is not a whole, valid `.hemp` file, and where it stops being one.

    Args:
        path: The file; None for bytes that came from no file.
        offset: Byte offset, from the start of the file, at which it differs from what is expected.
        expected: What a valid file has there.
        found: What this one has.

    Example:
        >>> print(HempFileError("net.hemp", 4, "format version 1", "version 9"))
        net.hemp: byte 4: expected format version 1, found version 9
    """

    def __init__(self, path: str | None, offset: int, expected: str, found: str) -> None:
        super().__init__(path, offset, expected, found)
        self.path = path
        self.offset = offset
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        file = "" if self.path is None else f"{self.path}: "
        return f"{file}byte {self.offset}: expected {self.expected}, found {self.found}"


@contextmanager
def located(start: int, path: str | None = None) -> Iterator[None]:
    """Let errors inside count their offset from the bytes that have these at `start`.

    Example:
        >>> with located(10, "net.hemp"):
        ...     raise HempFileError(None, 4, "a name", "the end")
        Traceback (most recent call last):
        hemp_reader.errors.HempFileError: net.hemp: byte 14: expected a name, found the end
    """
    try:
        yield
    except HempFileError as error:
        raise HempFileError(
            path, start + error.offset, error.expected, error.found
        ) from error.__cause__


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first of `names`, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2), listed([])
        ('a, b and 1 more', 'none')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
