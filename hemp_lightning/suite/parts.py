"""The parts of a run, each made from its group of the configuration: ours or the user's own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from hydra.utils import instantiate
from lightning import Callback, LightningDataModule, LightningModule
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hemp_lightning.coding import get_coder, register_coder
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.suite.baselines import PostTraining
from hemp_lightning.suite.check_keys import SUITE_KEYS, locate, takes
from hemp_lightning.suite.models import load_checkpoint

_log = logging.getLogger(__name__)


@runtime_checkable
class Starting(Protocol):
    """A method that sets in at an epoch."""

    start_epoch: int


@runtime_checkable
class OwnFormat(Protocol):
    """A method whose file `hemp_lightning.load` does not read: it decodes the file itself."""

    def load_into(self, network: nn.Module, path: str | Path) -> nn.Module:
        """Fill `network` from the file at `path`."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A task that says by which of its metrics networks are compared."""

    metric: str  # logged as val/METRIC and test/METRIC
    mode: str  # max or min: which is better


@dataclass(frozen=True)
class Data:
    """A dataset, and what networks and tasks need to know of it.

    Attributes:
        module: Gives the batches.
        name: Its name in results.
        facts: `num_classes`, `in_channels` and `image_size`, as far as they are known.
    """

    module: LightningDataModule
    name: str
    facts: dict[str, int]


def part(config: DictConfig, group: str) -> DictConfig | None:
    """What a group chose; None for `none`, also where an experiment has left settings for it."""
    chosen = config.get(group)
    return chosen if chosen and "_target_" in chosen else None


def part_name(chosen: DictConfig) -> str:
    """The name of a part in results: `name`, else that of its class.

    Example:
        >>> part_name(DictConfig({"_target_": "mymodel.SmallNet", "width": 16}))
        'SmallNet'
    """
    return str(chosen.get("name") or str(chosen["_target_"]).rsplit(".", 1)[-1])


def make(chosen: DictConfig, group: str, **offered: Any) -> Any:
    """Make what a group's `_target_` names.

    Args:
        chosen: The group: arguments beside `_target_`. Those that only the suite reads are left
            out, unless the target takes them.
        group: Its name.
        **offered: Further arguments, given where the target takes them and `chosen` has none.

    Raises:
        ValueError: The target needs an argument that nobody gives.
    """
    arguments, anything = takes(str(chosen["_target_"]))
    ours = [key for key in SUITE_KEYS.get(group, ()) if key not in arguments]
    kept = {key: value for key, value in chosen.items_ex(resolve=False) if key not in ours}
    given = {
        key: value
        for key, value in offered.items()
        if key in arguments and (kept.get(key) is None or isinstance(value, nn.Module))
    }
    plain = DictConfig(kept, parent=chosen._get_parent())
    missing = [
        name
        for name, argument in arguments.items()
        if argument.default is argument.empty and name not in given and name not in plain
    ]
    if missing and not plain.get("_partial_") and not anything:
        raise ValueError(
            f"`{group}.{missing[0]}`: {chosen['_target_']} needs it, and it has no default; found "
            f"none. Type {group}.{missing[0]}=VALUE"
        )
    return instantiate(plain, **given)


def new_data(config: DictConfig) -> Data:
    """Make the dataset, read it, and learn its facts.

    `num_classes`, `in_channels` and `image_size` come from the configuration, else from attributes
    of the module; the last two, where neither says them, from the first training batch.

    Raises:
        ValueError: The target is no LightningDataModule.
    """
    chosen = config.dataset
    module = make(chosen, "dataset")
    if not isinstance(module, LightningDataModule):
        hint = ""
        if isinstance(module, Dataset):
            hint = ". Type dataset=pair dataset.train._target_=... dataset.test._target_=..."
        raise ValueError(
            f"`dataset._target_`: expected a LightningDataModule; found "
            f"{type(module).__name__}{hint}"
        )
    module.prepare_data()
    module.setup("fit")
    facts = {}
    for key in ("num_classes", "in_channels", "image_size"):
        value = chosen.get(key)
        value = vars(module).get(key, vars(type(module)).get(key)) if value is None else value
        if isinstance(value, int):
            facts[key] = value
    images = None
    if not {"in_channels", "image_size"} <= facts.keys():
        with torch.random.fork_rng(devices=[]):
            images = _first_input(module)
    if images is not None and images.ndim == 4:
        facts = {"in_channels": images.shape[1], "image_size": images.shape[-1], **facts}
    name = str(chosen.get("name") or vars(module).get("name") or type(module).__name__.lower())
    return Data(module, name, facts)


def _first_input(module: LightningDataModule) -> Tensor | None:
    loader = module.train_dataloader()
    if not isinstance(loader, DataLoader):
        return None
    batch = next(iter(DataLoader(loader.dataset, 1, collate_fn=loader.collate_fn)))
    first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    return first if isinstance(first, Tensor) else None


def new_network(config: DictConfig, data: Data, start: bool = False, group: str = "model") -> Any:
    """Build a network of a configuration for a dataset.

    Args:
        config: The composed configuration.
        data: Its facts are given to the model where it takes them.
        start: With the pretrained weights or those of the checkpoint, where the configuration says
            so.
        group: Where the configuration describes it, `model` or `teacher`.

    Raises:
        ValueError: `num_classes` is less than the dataset has, or the network cannot take
            the images or the checkpoint.
    """
    model = config[group]
    facts: dict[str, Any] = dict(data.facts)
    wanted, found = model.get("num_classes"), facts.get("num_classes")
    if wanted is not None and found is not None and wanted < found:
        raise ValueError(
            f"`{group}.num_classes`: expected {found} or more, as many as the "
            f"dataset has; found {wanted}"
        )
    if not start:
        model = model.copy()
        if model.get("pretrained"):
            model["pretrained"] = False
    arguments, _ = takes(str(model["_target_"]))
    if "num_classes" in arguments and wanted is None and found is None:
        raise ValueError(
            f"`dataset.num_classes`: expected the number of classes, which {part_name(model)} "
            f"needs; {data.name} does not say it. Type dataset.num_classes=N"
        )
    network = make(model, group, **facts)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"`{group}._target_`: expected a torch.nn.Module; found {type(network).__name__}"
        )
    if start and model.get("checkpoint") is not None:
        prefix = model.get("checkpoint_prefix")
        more = {} if prefix is None else {"prefix": prefix}
        load_checkpoint(network, model.checkpoint, f"{group}.checkpoint", **more)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def new_teacher(config: DictConfig, data: Data) -> nn.Module | None:
    """The network of `model@teacher=NAME`, if there is one."""
    teacher = config.get("teacher")
    if teacher is None:
        return None
    if not (teacher.get("pretrained") or teacher.get("checkpoint")):
        raise ValueError(
            f"`teacher`: expected a trained network; found {part_name(teacher)} with neither "
            "weights nor checkpoint. Type teacher.checkpoint=FILE or teacher.pretrained=true"
        )
    if not config.distillation:
        raise ValueError(
            "`distillation`: expected above 0 with a `teacher`; found 0, and nothing would be "
            "learned from it. Type distillation=0.9, or leave the teacher out"
        )
    own, its = (
        chosen.get("num_classes") or data.facts.get("num_classes")
        for chosen in (config.model, teacher)
    )
    if own != its:
        raise ValueError(
            f"`teacher.num_classes`: expected {own}, as many as the network's; found {its}"
        )
    return new_network(config, data, start=True, group="teacher")


def new_task(config: DictConfig, data: Data, network: nn.Module, **offered: Any) -> Any:
    """The LightningModule that trains `network`.

    Args:
        config: The composed configuration.
        data: Its facts are given to the task where it takes them.
        network: What is trained, and what the file holds.
        **offered: What only the training needs: scheduler, teacher, distillation.

    Raises:
        ValueError: The target is no LightningModule, or does not keep `network` as an attribute of
            that name.
    """
    target = str(config.task["_target_"])
    arguments, _ = takes(target)
    for word, value in offered.items():
        if word in ("distillation", "teacher", "compile") and value and word not in arguments:
            raise ValueError(
                f"`{word}`: expected a task that takes `{word}`; {target} does not. Leave it out, "
                "or choose task=classification"
            )
    if offered.get("scheduler") is not None and "scheduler" not in arguments:
        _log.info("%s takes no `scheduler`: the learning rate stays", target)
    facts: dict[str, Any] = dict(data.facts)
    if config.model.get("num_classes") is not None:
        facts["num_classes"] = config.model.num_classes
    if "num_classes" in arguments and "num_classes" not in facts:
        raise ValueError(
            f"`dataset.num_classes`: expected the number of classes, which the task needs; "
            f"{data.name} does not say it. Type dataset.num_classes=N"
        )
    task = make(
        config.task,
        "task",
        network=network,
        optimizer=instantiate(config.optimizer),
        **facts,
        **offered,
    )
    if not isinstance(task, LightningModule):
        raise ValueError(
            f"`task._target_`: expected a LightningModule; found {type(task).__name__}"
        )
    if dict(task.named_children()).get("network") is not network:
        raise ValueError(
            f"`task._target_`: expected {target} to take `network` and to keep it as "
            "`self.network`, which is what the file holds; found no such attribute"
        )
    return task


def new_pruning(config: DictConfig) -> Callback | None:
    """The pruning method, if there is one."""
    chosen = part(config, "pruning")
    return _callback(chosen, "pruning", start_epoch=config.float_epochs) if chosen else None


def new_method(config: DictConfig, folder: Path) -> Any:
    """What writes the file: HEMP, or the method of `quantization=`.

    Raises:
        ValueError: Both are chosen, or the method never sets in, or the quantizer is none.
    """
    hemp, quantization = part(config, "hemp"), part(config, "quantization")
    if hemp and quantization:
        raise ValueError(
            "`hemp` and `quantization`: expected one of the two, each writes the file; found both. "
            "Type hemp=none or quantization=none"
        )
    coder = _known_coder(config.coder)  # an unknown one shows before training, not after
    path = folder / "model.hemp"
    if hemp:
        if part(config, "pruning"):
            hemp = _on_weights(hemp)
        method = make(hemp, "hemp")
        check_quantizer(method.quantizer)
    elif quantization:
        offered = {"path": path, "coder": coder, "start_epoch": config.float_epochs}
        method = _callback(quantization, "quantization", **offered)
    else:
        return PostTraining(path=path, coder=coder)
    epochs = config.trainer.max_epochs
    start = method.start_epoch if isinstance(method, Starting) else -1
    untrained = epochs == 0 and bool(hemp)  # quantizes the network as it is
    if start >= epochs and not untrained:
        raise ValueError(
            f"`start_epoch`: expected less than the {epochs} epochs of training, or the method "
            f"never sets in; found {start}. Raise `epochs` or lower `float_epochs`"
        )
    return method


def _on_weights(hemp: DictConfig) -> DictConfig:
    """HEMP for weights that are pruned: a level 0 of cosine coefficients is no weight of 0.

    Raises:
        ValueError: `hemp.transform` asks for cosine coefficients.
    """
    if hemp.get("transform") not in (None, "auto", "none"):
        raise ValueError(
            f"`hemp.transform`: expected auto or none with `pruning`, whose zeros stand among the "
            f"weights; found {hemp.transform}. Type hemp.transform=none or pruning=none"
        )
    chosen = hemp.copy()
    if "transform" in chosen:
        chosen.transform = "none"
    return chosen


def method_name(config: DictConfig) -> str:
    """Name of what wrote the file: `hemp`, or the method of `quantization=`."""
    if part(config, "hemp"):
        return "hemp"
    quantization = part(config, "quantization")
    return part_name(quantization) if quantization else "lloyd_max"


def check_quantizer(quantizer: Any) -> None:
    """Check that a quantizer gives codebooks, on a few weights.

    Raises:
        ValueError: `fit` gives something else.
    """
    found = quantizer.fit(torch.linspace(-1.0, 1.0, 64))
    if not isinstance(found, Codebook):
        raise ValueError(
            f"`hemp.quantizer`: expected `fit(weights, init)` of {type(quantizer).__name__} to "
            f"return a hemp_lightning.Codebook; found {type(found).__name__}. Return "
            "Codebook(levels), with levels in ascending order"
        )


def _callback(chosen: DictConfig, group: str, **offered: Any) -> Callback:
    made = make(chosen, group, **offered)
    if not isinstance(made, Callback):
        raise ValueError(
            f"`{group}._target_`: expected a lightning.Callback; found {type(made).__name__}"
        )
    return made


def _known_coder(chosen: DictConfig) -> str:
    """The name of the coder, registered if it is the user's own."""
    if "number" in chosen:
        coder = locate(str(chosen["_target_"]), "coder._target_")
        missing = [word for word in ("name", "encode", "decode") if word not in dir(coder)]
        if missing:
            raise ValueError(
                f"`coder._target_`: expected a class with `name`, `encode` and `decode`; "
                f"{chosen['_target_']} has no `{missing[0]}`"
            )
        register_coder(coder, int(chosen.number))
        chosen["name"] = coder.name
    name = str(chosen.name)
    get_coder(name)
    return name
