"""How do we train? With the entropy term, on any LightningModule and Trainer."""

from hemp_lightning.training.callback import HEMPCallback

__all__ = ["HEMPCallback"]
