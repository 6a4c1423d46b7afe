"""Train networks whose weights entropy-code into little, and write them as one small file."""

from hemp_lightning.version import __version__

__all__ = ["__version__"]
