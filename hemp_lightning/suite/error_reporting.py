"""How the suite's command ends: a user's mistake is one line, a mistake of ours a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from hemp_lightning.errors import HempFileError

USER_ERRORS = (
    ValueError,
    TypeError,
    FileNotFoundError,
    NotADirectoryError,
    PermissionError,
    ModuleNotFoundError,
    HempFileError,
    HydraException,
    OmegaConfBaseException,
)


def wants_tracebacks() -> bool:
    """Whether HYDRA_FULL_ERROR=1 was set by the user, and every error shall raise as it is."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and _OURS not in os.environ


_OURS = "HEMP_CATCHES_ERRORS"


def run_cleanly(main: Callable[[], object]) -> int:
    """Call a `hydra.main` function; print what a user did wrong as one line.

    With HYDRA_FULL_ERROR=1 in the environment everything raises as it is.

    Returns:
        The exit code: 0, or 1 after an error.
    """
    if wants_tracebacks():
        main()
        return 0
    # Hydra then hands us the exception in place of printing it in lines of its own
    os.environ["HYDRA_FULL_ERROR"] = os.environ[_OURS] = "1"
    try:
        main()
    except USER_ERRORS as error:
        exit_with(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        del os.environ["HYDRA_FULL_ERROR"], os.environ[_OURS]
    return 0


def exit_with(error: BaseException) -> NoReturn:
    """Print the error as one line and leave with exit code 1."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    raise SystemExit(1)


def one_line(error: BaseException) -> str:
    r"""The message of an error as one line; of the error behind it where Hydra wrapped one.

    Example:
        >>> one_line(ValueError("`order`: expected 1 or more;\n  found 0"))
        '`order`: expected 1 or more; found 0'
    """
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    for noise in (" Config search path:", " full_key:"):  # Hydra's, of no use to the reader
        text = text.split(noise)[0]
    return text
