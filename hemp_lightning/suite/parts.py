"""The parts of a run, each made from its group of the configuration: ours or the user's own.

Network, data and task are made here; what prunes, quantizes and writes the file in `methods.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule, LightningModule
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hemp_lightning.suite.check_keys import SUITE_KEYS, takes
from hemp_lightning.suite.models import load_checkpoint

_log = logging.getLogger(__name__)


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
