"""Every configuration composes, and every leaf is small."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_method
from omegaconf import DictConfig, OmegaConf

import hemp_lightning.suite.experiment
from hemp_lightning.suite.models import MODELS

CONF = Path(__file__).parents[2] / "conf"
GROUPS = {
    folder.name: sorted(leaf.stem for leaf in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir()
}
METHODS = ["hemp=default", "hemp=none"]
METHODS += [f"quantization={name}" for name in GROUPS["quantization"] if name != "none"]
METHODS += [f"pruning={name}" for name in GROUPS["pruning"] if name != "none"]


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
@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_model_with_every_method(model: str, method: str) -> None:
    config = composed(f"model={model}", method)
    check(config)
    assert config.model.name == model
    assert bool(config.hemp) == (not method.startswith("quantization") and method != "hemp=none")


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group in (
            "dataset",
            "coder",
            "optimizer",
            "scheduler",
            "trainer",
            "logger",
            "callbacks",
        )
        for name in GROUPS[group]
    ],
)
def test_every_leaf(choice: str) -> None:
    check(composed(choice))


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
def test_every_experiment_has_its_command_on_top(experiment: str) -> None:
    check(composed(f"experiment={experiment}"))
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python run.py experiment={experiment}")


def test_models_of_the_zoo_all_have_a_leaf() -> None:
    assert sorted(MODELS) == GROUPS["model"]


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
    name = hemp_lightning.suite.experiment.run_name
    assert name("hemp.order=3,dataset.root=../a/b") == "hemp.order=3,dataset.root=.._a_b"
    assert len(name("x" * 400)) < 160 and name("x" * 400) != name("x" * 401)


def test_coders_of_the_package_all_have_a_leaf() -> None:
    from hemp_lightning.coding import CODERS

    assert set(GROUPS["coder"]) <= set(CODERS)
