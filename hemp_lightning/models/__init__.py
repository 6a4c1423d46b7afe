"""Networks of the suite, by name: `build("lenet5")`, `build("resnet20", num_classes=100)`."""

from __future__ import annotations

from hemp_lightning.models.checkpoint import load_checkpoint, read_state_dict
from hemp_lightning.models.zoo import MODELS, build

__all__ = ["MODELS", "build", "load_checkpoint", "read_state_dict"]
