"""Limits that codebooks, coders and files share."""

MAX_LEVELS = 65_536
"""The most levels of a tensor: an index fits in 16 bits."""
