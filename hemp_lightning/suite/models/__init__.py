"""Networks of the suite, by name: `build("lenet5")`, `build("resnet20", num_classes=100)`."""

from __future__ import annotations

from hemp_lightning.suite.models.checkpoint import load_checkpoint, read_state_dict
from hemp_lightning.suite.models.zoo import MODELS, build

__all__ = ["MODELS", "build", "load_checkpoint", "read_state_dict"]
