"""What a user types after the command, made ready for Hydra.

Hydra refuses a key that no leaf of `conf/` has. Here any argument of a model, a dataset or a task
can be typed without a `+`; `check_keys` then refuses what its class does not take.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

CONF = Path(__file__).resolve().parent / "conf"
"""Folder of the configurations; in a clone it is a link to the top folder `conf`."""

OPEN = (
    *("model", "teacher", "dataset", "task", "hemp", "quantization", "pruning", "coder"),
    *("optimizer", "scheduler", "trainer", "logger", "callbacks"),
)
"""Groups whose leaves take any argument of what their `_target_` names."""

OWN = ("model", "dataset", "task", "quantization", "pruning", "coder")
"""Groups with a leaf `own`, which holds nothing of the built-in leaves."""

_WORD = re.compile(r"(\+{0,2})([^\s=~+][^\s=]*)=", re.ASCII)


def prepared(words: Sequence[str]) -> list[str]:
    """The words of a command line as Hydra wants them.

    An argument of an open group becomes one that Hydra adds where it is new. An own `_target_`
    brings the leaf `own`, unless a leaf of that group was chosen as well.

    Args:
        words: As typed, without the name of the program.

    Example:
        >>> prepared(["seed=1", "hemp.order=3"])
        ['seed=1', '++hemp.order=3']
        >>> prepared(["model._target_=mymodel.Small"])
        ['++model._target_=mymodel.Small', 'model=own']
    """
    chosen = {key for key, _ in typed(words)}
    top = top_keys() | {path.name for folder in _folders(words) for path in folder.iterdir()}
    ready, own = [], []
    for word in words:
        match = _WORD.match(word)
        if match is None or word.startswith("-"):
            ready.append(word)
            continue
        signs, key = match.groups()
        group = key.split(".")[0]
        if group in OPEN and "." in key:
            signs = "++"
            if key == f"{group}._target_" and group in OWN and group not in chosen:
                own.append(f"{group}=own")
        elif key.isidentifier() and key not in top and not signs:
            signs = "++"  # no such key: `check_keys` says so, and which one is near
        ready.append(f"{signs}{key}={word[match.end() :]}")
    return [*ready, *own]


def typed(words: Iterable[str]) -> list[tuple[str, str]]:
    """Keys and values of the words that set something, signs taken off.

    Example:
        >>> typed(["-m", "++hemp.order=1,2", "~pruning"])
        [('hemp.order', '1,2')]
    """
    pairs = []
    for word in words:
        match = _WORD.match(word)
        if match and not word.startswith("-"):
            pairs.append((match.group(2), word[match.end() :]))
    return pairs


def plain(word: str) -> str:
    """A word as it was typed: without the signs that `prepared` put before it.

    Example:
        >>> plain("++hemp.order=3")
        'hemp.order=3'
    """
    return word.lstrip("+")


def top_keys() -> set[str]:
    """Keys of the top level of `conf/config.yaml`."""
    lines = (CONF / "config.yaml").read_text().splitlines()
    return {line.split(":")[0] for line in lines if re.match(r"[a-z_]+:", line)}


def _folders(words: Sequence[str]) -> list[Path]:
    """Folders of configurations: ours, and what `--config-dir` names."""
    folders = [CONF]
    for place, word in enumerate(words):
        if word in ("--config-dir", "-cd"):
            folders += [Path(name) for name in words[place + 1 : place + 2]]
        elif word.startswith("--config-dir="):
            folders.append(Path(word.split("=", 1)[1]))
    return [folder for folder in folders if folder.is_dir()]
