"""Compiled loops behind `hemp_lightning.entropy`: the same numbers, faster."""
