"""How do we compress a network that we cannot train? From its weights, and inputs if there are."""

from hemp_lightning.calibration.compress import STAGES, CompressSummary, compress

__all__ = ["STAGES", "CompressSummary", "compress"]
