"""Words where a composed configuration wants numbers: found before anything is built."""

from __future__ import annotations

import inspect

from omegaconf import DictConfig

from hemp_lightning.suite.check_keys import takes

TOP = ("seed", "float_epochs", "epochs", "distillation", "temperature")


def check_numbers(config: DictConfig) -> None:
    """Check that no word stands where the configuration wants a number.

    What wants a number is said by `TOP`, and for each `_target_` by its own signature: arguments
    whose default is a number, or that are annotated as one.

    Args:
        config: The composed configuration of `conf/`.

    Raises:
        ValueError: Names the key as it is typed on the command line, and the word.
    """
    for key in TOP:
        _check(key, config.get(key))
    _walk(config, "")


def _walk(config: DictConfig, prefix: str) -> None:
    wanted = _numbers(config.get("_target_"))
    for key, value in ((str(key), value) for key, value in config.items()):
        if isinstance(value, DictConfig):
            _walk(value, prefix + key + ".")
        elif key in wanted:
            _check(prefix + key, value)


def _numbers(target: str | None) -> set[str]:
    if not target:
        return set()
    return {name for name, parameter in takes(target)[0].items() if _is_number(parameter)}


def _is_number(parameter: inspect.Parameter) -> bool:
    if isinstance(parameter.default, (int, float)):
        return not isinstance(parameter.default, bool)
    annotation = str(parameter.annotation)
    return annotation.removesuffix(" | None") in ("int", "float")


def _check(key: str, value: object) -> None:
    if isinstance(value, str):
        raise ValueError(f"`{key}`: expected a number; found {value!r}")
