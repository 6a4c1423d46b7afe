"""How do we train? With the entropy term, on any LightningModule and Trainer."""

from hemp_lightning.training.callback import FileOptions, HEMPCallback

__all__ = ["FileOptions", "HEMPCallback"]
