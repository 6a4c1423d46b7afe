"""The version, apart from the package so that a build can read it without importing torch."""

__version__ = "1.0.0"
