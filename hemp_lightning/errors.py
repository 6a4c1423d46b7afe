"""The one exception that a broken file raises, and words that messages share."""

from hemp_reader.errors import HempFileError, listed, located

__all__ = ["HempFileError", "listed", "located"]
