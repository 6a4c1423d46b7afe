"""The version, that of hemp-lightning: both read and write the same files."""

__version__ = "1.0.0"
