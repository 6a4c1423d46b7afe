"""Keys that nothing reads: found before anything is built, with the nearest key that is read."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hemp_lightning.suite.words import CONF, top_keys, typed

SUITE_KEYS: dict[str, tuple[str, ...]] = {
    "model": ("name", "num_classes", "pretrained", "checkpoint", "checkpoint_prefix"),
    "dataset": ("name", "num_classes", "in_channels", "image_size"),
    "task": ("metric", "mode"),
    "quantization": ("name",),
    "pruning": ("name",),
    "coder": ("name", "number"),
}
"""Keys that the suite reads itself, whatever the `_target_` of the group takes."""
SUITE_KEYS["teacher"] = SUITE_KEYS["model"]

_HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


def check_keys(config: DictConfig, words: Sequence[str] = ()) -> None:
    """Check that something reads every key of a configuration.

    Args:
        config: The composed configuration of `conf/`, without `hydra`.
        words: What was typed; a setting typed for a group that is off is refused as well.

    Raises:
        ValueError: Names the key as it is typed, and the nearest one that is read.
    """
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    known = (top_keys() | groups | {"teacher"}) - {"defaults", "hydra"}
    for key in map(str, config):
        if key not in known:
            raise ValueError(f"`{key}`: there is no such setting{_nearest(key, known)}")
    for group in map(str, config):
        part = config.get(group)
        if isinstance(part, DictConfig):
            _walk(part, f"{group}.", SUITE_KEYS.get(group, ()))
    for key, _ in typed(words):
        group, _, rest = key.partition(".")
        if rest and group in ("hemp", "quantization", "pruning", "scheduler", "teacher"):
            part = config.get(group)
            if not part or "_target_" not in part:
                raise ValueError(
                    f"`{key}`: expected no such word, since there is no `{group}` in this run. "
                    f"Choose one, {group}=..., or leave the word out"
                )


def takes(target: str) -> tuple[dict[str, inspect.Parameter], bool]:
    """Arguments of what a `_target_` names, and whether it takes any other keyword.

    Of a class whose `__init__` hands keywords on, the arguments of its parents count as well.

    Args:
        target: A dotted name, `package.module.Class`.

    Raises:
        ValueError: There is no such thing to import; the message says where it was looked for.

    Example:
        >>> arguments, anything = takes("torch.nn.Linear")
        >>> list(arguments)[:2], anything
        (['in_features', 'out_features'], False)
    """
    found = locate(target)
    makers: list[Callable[..., Any]] = [found]
    if isinstance(found, type):
        makers = [vars(cls)["__init__"] for cls in found.__mro__[:-1] if "__init__" in vars(cls)]
    arguments: dict[str, inspect.Parameter] = {}
    for maker in makers:
        try:
            parameters = inspect.signature(maker).parameters
        except (ValueError, TypeError):  # a builtin that does not tell
            return arguments, True
        arguments = {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and name != "self"
        } | arguments
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values()):
            return arguments, False
    return arguments, bool(makers)


def locate(target: str, key: str = "_target_") -> Any:
    """What a dotted name stands for.

    Raises:
        ValueError: It cannot be imported.

    Example:
        >>> locate("math.tau") > 6
        True
    """
    hydra = logging.getLogger("hydra.utils")  # says the same once more, in lines of its own
    before, hydra.disabled = hydra.disabled, True
    try:
        return get_object(target)
    except Exception as error:  # whatever the user's module raises while it is imported
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split()).split(" Are you sure")[0]
        raise ValueError(
            f"`{key}`: cannot import {target}: {reason}. Modules are looked for in {Path.cwd()} "
            "and where Python's packages are"
        ) from error
    finally:
        hydra.disabled = before


def _walk(part: DictConfig, prefix: str, own: Iterable[str]) -> None:
    target = part.get("_target_")
    if target is not None:
        locate(str(target), f"{prefix}_target_")
        arguments, anything = takes(str(target))
        known = {*arguments, *own}
        for key in map(str, part):
            if not anything and key not in known | _HYDRA_KEYS:
                raise ValueError(
                    f"`{prefix}{key}`: {target} takes no `{key}`"
                    f"{_nearest(key, known, prefix)}; it takes {', '.join(sorted(known))}"
                )
    for key in map(str, part):
        if OmegaConf.is_dict(part._get_node(key)):
            _walk(part[key], f"{prefix}{key}.", ())


def _nearest(key: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(key, sorted(known), 1)
    return f"; the nearest is `{prefix}{near[0]}`" if near else ""
