"""Networks by name, of the zoo and of installed packages, in the shape that a checkpoint wants."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

SOURCES = ("zoo", "torchvision", "timm", "transformers")
"""Where names are looked up, in this order; `timm/resnet50` asks one of them alone."""


def named_networks(
    name: str, tensors: Mapping[str, Tensor], folder: str | os.PathLike[str]
) -> Iterator[nn.Module]:
    """Networks of that name with random weights, of each source that has one.

    Args:
        name: Such as `resnet20`, `torchvision/resnet50`, `timm/vit_tiny_patch16_224`, or a class or
            model type of transformers: `BertModel`, `bert`.
        tensors: Of the checkpoint: the last matrix says how many classes there are.
        folder: Where the checkpoint lies; a `config.json` there is that of a transformers model.

    Raises:
        ValueError: If no source has the name, or none of the packages is there.
    """
    source, _, own = name.partition("/")
    sources = (source,) if own and source in SOURCES else SOURCES
    own = own if own and source in SOURCES else name
    missing: list[str] = []
    errors: list[str] = []
    found = False
    for source in sources:
        try:
            network = _BUILDERS[source](own, _num_classes(tensors), Path(folder))
        except ModuleNotFoundError as error:
            missing.append(str(error.name))
            continue
        except Exception as error:  # these packages raise anything at what they cannot build
            errors.append(f"{source} says: {type(error).__name__}: {error}".splitlines()[0])
            continue
        if network is not None:
            found = True
            yield network
    if not found:
        reasons = [*errors, *([f"not installed: {', '.join(missing)}"] if missing else [])]
        raise ValueError(
            "--model must be package.module:build, or a name of the zoo, torchvision, timm or "
            f"transformers; found {name}" + (f" ({'; '.join(reasons)})" if reasons else "")
        )


def _num_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Rows of the last matrix; None without one."""
    last = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    return len(last[-1]) if last else None


def _zoo(name: str, num_classes: int | None, _: Path) -> nn.Module | None:
    from hemp_lightning.suite.models import MODELS, build

    return build(name, num_classes) if name in MODELS else None


def _torchvision(name: str, num_classes: int | None, _: Path) -> nn.Module | None:
    models: Any = importlib.import_module("torchvision.models")
    if name not in models.list_models():
        return None
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    elif num_classes is not None:  # detection and segmentation have heads of other kinds
        options["num_classes"] = num_classes
    return models.get_model(name, **options)


def _timm(name: str, num_classes: int | None, _: Path) -> nn.Module | None:
    timm: Any = importlib.import_module("timm")
    if not timm.is_model(name):
        return None
    classes = {} if num_classes is None else {"num_classes": num_classes}
    return timm.create_model(name, pretrained=False, **classes)


def _transformers(name: str, _: int | None, folder: Path) -> nn.Module | None:
    transformers: Any = importlib.import_module("transformers")
    auto: Any = importlib.import_module("transformers.models.auto.configuration_auto")
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    is_class = isinstance(kind, type) and hasattr(kind, "config_class")
    if not is_class and name not in auto.CONFIG_MAPPING:
        return None
    if (folder / "config.json").exists():
        config = transformers.AutoConfig.from_pretrained(folder)
    elif is_class:
        assert kind is not None
        config = kind.config_class()
    else:
        config = transformers.AutoConfig.for_model(name)
    if is_class:
        assert kind is not None
        return kind(config)
    own = getattr(transformers, (config.architectures or [""])[0], None)
    return own(config) if own is not None else transformers.AutoModel.from_config(config)


_BUILDERS: dict[str, Callable[[str, int | None, Path], nn.Module | None]] = {
    "zoo": _zoo,
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
