"""The command `python -m hemp_reader`: a `.hemp` file as `.npz` or `.safetensors`.

Exit codes: 0, all is well; 1, the file is broken; 2, the call was wrong. Errors are one line on
stderr, and no output is left half-written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hemp_reader.converting import SUFFIXES, convert
from hemp_reader.errors import HempFileError
from hemp_reader.reading import inspect
from hemp_reader.summary import Summary
from hemp_reader.version import __version__

BROKEN, MISUSED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: As on the command line, without the name of the program; None for those.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.output is None:
            print("\n".join(_lines(inspect(options.file, max_bytes=options.max_bytes))))
        else:
            count = convert(options.file, options.output, max_bytes=options.max_bytes)
            size = os.path.getsize(options.output)
            print(f"{options.output}: {count} tensors, {size:,} bytes")
    except HempFileError as error:
        return _complain(error, BROKEN)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        return _complain(reason, MISUSED)
    except ValueError as error:
        return _complain(error, MISUSED)
    except MemoryError:
        return _complain("not enough memory for these tensors", MISUSED)
    return 0


def _complain(message: object, code: int) -> int:
    print("hemp_reader:", " ".join(str(message).split()), file=sys.stderr)
    return code


def _lines(summary: Summary) -> list[str]:
    """A line for each tensor, and one for the file."""
    rows = [
        (
            "".join(c if c.isprintable() else ascii(c)[1:-1] for c in tensor.name),
            "x".join(map(str, tensor.shape)) or "scalar",
            tensor.dtype,
            tensor.coder,
            f"{tensor.bytes:,} bytes",
        )
        for tensor in summary.tensors
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [*lines, f"{summary.path}: {len(rows)} tensors, {summary.file_bytes:,} bytes"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hemp_reader", description="Read .hemp files with NumPy alone."
    )
    parser.add_argument("--version", action="version", version=f"hemp_reader {__version__}")
    parser.add_argument(
        "file", metavar="FILE", help="the .hemp file; alone, its tensors are listed"
    )
    parser.add_argument("-o", "--output", metavar="OUTPUT", help=f"{' or '.join(SUFFIXES)}")
    parser.add_argument(
        "--max-bytes",
        type=int,
        metavar="N",
        help="most bytes of all tensors; default 256 MiB + 4096 times the file",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
