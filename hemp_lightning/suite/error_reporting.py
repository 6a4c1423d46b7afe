"""How the suite's command ends: one line for an error, and where its traceback is."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException, InstantiationException, OverrideParseException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from hemp_lightning.suite.words import plain
from hemp_reader.errors import HempFileError

USER_ERRORS = (
    ValueError,
    TypeError,
    FileNotFoundError,
    NotADirectoryError,
    PermissionError,
    ModuleNotFoundError,
    MisconfigurationException,
    HempFileError,
    HydraException,
    OmegaConfBaseException,
)

PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
    "optuna": "hydra-optuna-sweeper",
}
"""What to install for a launcher or a sweeper whose name begins so."""

_OURS = "HEMP_CATCHES_ERRORS"
_PLUGIN = re.compile(r"hydra/(launcher|sweeper)[:/=' ]+([a-z]+)")


def wants_tracebacks() -> bool:
    """Whether HYDRA_FULL_ERROR=1 was set by the user, and every error shall raise as it is."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and _OURS not in os.environ


def is_misuse(error: BaseException) -> bool:
    """Whether an error tells the user of the command what to mend, in words made for it.

    Our messages have the name of an argument in backticks. Any other ValueError or TypeError may
    as well be a fault of the program, or of a module of the user's.

    Example:
        >>> is_misuse(ValueError("`order`: expected 1 or more; found 0"))
        True
        >>> is_misuse(TypeError("unsupported operand")), is_misuse(RuntimeError("`a`: no"))
        (False, False)
    """
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
        if isinstance(error, (ValueError, TypeError)):  # what a class does not take
            return True
    if isinstance(error, (ValueError, TypeError)):
        return "`" in str(error)
    return isinstance(error, USER_ERRORS)


def run_cleanly(main: Callable[[], object]) -> int:
    """Call a `hydra.main` function; print an error that a user can mend as one line.

    Other errors come with their traceback. With HYDRA_FULL_ERROR=1 in the environment everything
    raises as it is.

    Returns:
        The exit code: 0, 1 after an error, 130 after Ctrl-C.
    """
    if wants_tracebacks():
        main()
        return 0
    # Hydra then hands us the exception in place of printing it in lines of its own
    os.environ["HYDRA_FULL_ERROR"] = os.environ[_OURS] = "1"
    try:
        main()
    except Exception as error:
        exit_with(error)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 130
    finally:
        del os.environ["HYDRA_FULL_ERROR"], os.environ[_OURS]
    return 0


def exit_with(error: BaseException, folder: Path | None = None) -> NoReturn:
    """Print the error as one line, where its traceback is, and leave with exit code 1.

    The traceback of an unexpected error is printed before it.

    Args:
        error: What went wrong.
        folder: The run folder, if `write_error` wrote the traceback there.
    """
    expected = is_misuse(error)
    if not expected:
        traceback.print_exception(error)
    print(f"error: {one_line(error)}", file=sys.stderr)
    if folder is not None:
        more = "; HYDRA_FULL_ERROR=1 prints it" if expected else ", too"
        print(f"The traceback is in {folder / 'error.txt'}{more}.", file=sys.stderr)
    raise SystemExit(1)


def write_error(error: BaseException, folder: Path) -> None:
    """Write `error.txt`: the error as one line, then its traceback."""
    text = "".join(traceback.format_exception(error))
    (folder / "error.txt").write_text(f"{one_line(error)}\n\n{text}")


def one_line(error: BaseException) -> str:
    r"""The message of an error as one line; of the error behind it where Hydra wrapped one.

    Example:
        >>> one_line(ValueError("`order`: expected 1 or more;\n  found 0"))
        '`order`: expected 1 or more; found 0'
        >>> one_line(TypeError("unsupported operand"))
        'TypeError: unsupported operand'
    """
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OverrideParseException):
        return (
            f"`{plain(error.override)}`: expected KEY=VALUE; found {text.split(' See ')[0]}. A "
            "value with = , : or a space stands in two pairs of quotes: KEY='\"a=b\"'"
        )
    for noise in (" Config search path:", " full_key:"):  # Hydra's, of no use to the reader
        text = text.split(noise)[0]
    plugin = _PLUGIN.search(text)
    if plugin and isinstance(error, HydraException):
        kind, name = plugin.groups()
        if name in PACKAGES:
            return (
                f"`{'launcher' if kind == 'launcher' else 'sweep'}={name}` needs the package "
                f"{PACKAGES[name]}; it is not installed. Type pip install {PACKAGES[name]}"
            )
    choice = re.search(r"Could not find '(\w+)/([\w.]+)'.*Available options in '\w+': (.*)", text)
    if choice:
        group, name, others = choice.groups()
        near = difflib.get_close_matches(name, others.split(), 1)
        hint = f"; the nearest is {near[0]}" if near else ""
        return f"`{group}`: expected one of {', '.join(others.split())}; found {name!r}{hint}"
    ours = isinstance(
        error,
        (
            *(HempFileError, OSError, HydraException, OmegaConfBaseException),
            MisconfigurationException,
        ),
    )
    if ours or "`" in text or ";" in text or isinstance(error, ValueError):
        return text
    return f"{type(error).__name__}: {text}"
