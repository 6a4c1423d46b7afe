"""Every configuration composes, and every leaf is small."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_method
from omegaconf import DictConfig, OmegaConf

from hemp_lightning.suite.check_keys import check_keys
from hemp_lightning.suite.models import MODELS
from hemp_lightning.suite.sweeps import run_name

CONF = Path(__file__).parents[2] / "conf"
GROUPS = {
    folder.name: sorted(leaf.stem for leaf in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir()
}
METHODS = ["hemp=default", "hemp=none"]
METHODS += [f"quantization={n}" for n in GROUPS["quantization"] if n not in ("none", "own")]
METHODS += [f"pruning={n}" for n in GROUPS["pruning"] if n not in ("none", "own")]
TO_FILL = {  # leaves that want a word more, and one that they take
    "model=own": "model._target_=torch.nn.Identity",
    "model=base": "model.name=lenet5",
    "model=timm": "model.name=resnet18",
    "model=torchvision": "model.name=resnet18",
    "model=transformers": "model.path=folder",
    "dataset=own": "dataset._target_=hemp_lightning.suite.datasets.Digits",
    "dataset=torchvision": "dataset.name=MNIST",
    "dataset=pair": "dataset.train._target_=torch.utils.data.TensorDataset",
    "task=own": "task._target_=lightning.LightningModule",
    "quantization=own": "quantization._target_=hemp_lightning.suite.baselines.LSQ",
    "pruning=own": "pruning._target_=hemp_lightning.suite.baselines.LOBSTER",
    "coder=own": "coder._target_=hemp_lightning.coding.compressors.RawCoder",
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [*overrides, "hydra.runtime.output_dir=out"]
        config = compose("config", words, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config


def check(config: DictConfig) -> None:
    """Resolve everything and find everything that a `_target_` names."""
    plain = OmegaConf.create({k: v for k, v in config.items_ex(resolve=False) if k != "hydra"})
    container = OmegaConf.to_container(plain, resolve=True)

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if "_target_" in node:
                target = str(node["_target_"])
                named_like_a_class = target.rsplit(".", 1)[1][0].isupper()
                (get_class if named_like_a_class else get_method)(target)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(container)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_with_every_method(model: str, method: str) -> None:
    config = composed(f"model={model}", method)
    check(config)
    assert config.model.name == model
    assert bool(config.hemp) == (not method.startswith("quantization") and method != "hemp=none")


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group in sorted(set(GROUPS) - {"experiment", "launcher", "sweep"})
        for name in GROUPS[group]
    ],
)
def test_every_leaf_composes_and_its_keys_are_read(choice: str) -> None:
    words = [choice] + ([f"++{TO_FILL[choice]}"] if choice in TO_FILL else [])
    if choice == "dataset=pair":
        words.append("++dataset.test._target_=torch.utils.data.TensorDataset")
    config = composed(*words)
    check(config)
    check_keys(OmegaConf.create({k: v for k, v in config.items_ex(resolve=False) if k != "hydra"}))
    group, name = choice.split("=")
    made = {"logger", "callbacks"}  # several parts each
    if name != "none" and group not in made:
        assert "_target_" in config[group], "a leaf says what it makes"


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
def test_every_experiment_has_its_command_on_top(experiment: str) -> None:
    check(composed(f"experiment={experiment}"))
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python run.py experiment={experiment}")


def test_models_of_the_zoo_all_have_a_leaf() -> None:
    others = {"base", "own", "timm", "torchvision", "transformers"}
    assert set(GROUPS["model"]) == {*MODELS, *others}


def test_leaves_are_small() -> None:
    for leaf in CONF.glob("*/*.yaml"):
        assert len(leaf.read_text().splitlines()) <= 25, leaf


def test_keys_of_hemp_are_the_arguments_of_the_callback() -> None:
    import inspect

    from hemp_lightning import HEMPCallback

    keys = set(composed().hemp) - {"_target_"}
    assert keys <= set(inspect.signature(HEMPCallback).parameters)
    assert {"order", "num_levels", "lambda_entropy", "start_epoch"} <= keys


def test_an_override_reaches_the_run_folder_name() -> None:
    name = run_name
    assert name("hemp.order=3,dataset.root=../a/b") == "hemp.order=3,dataset.root=.._a_b"
    assert len(name("x" * 400)) < 160 and name("x" * 400) != name("x" * 401)


def test_coders_of_the_package_all_have_a_leaf() -> None:
    from hemp_lightning.coding import CODERS

    assert set(GROUPS["coder"]) == {*CODERS, "own"}
