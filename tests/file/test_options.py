"""FileOptions: every field is checked when the object is made."""

import dataclasses

import pytest

from hemp_lightning.file.options import FileOptions


@pytest.mark.parametrize(
    ("field", "value", "kind", "message"),
    [
        ("coder", "contxt", ValueError, "`coder` must be one of raw, tuples, context"),
        ("float_dtype", "float8", ValueError, "`float_dtype` must be one of steps, float16"),
        ("fold_norms", 1, TypeError, "`fold_norms` must be True or False; found 1"),
        ("reorder_units", "yes", TypeError, "`reorder_units` must be True or False; found 'yes'"),
        ("order", 0, ValueError, "`order` must be at least 1; found 0"),
        ("order", 2.0, TypeError, "`order` must be an integer; found 2.0"),
        ("scan", "rows", ValueError, "`scan` must be one of row_major, kernel, input, output"),
    ],
)
def test_a_wrong_value_is_refused(field, value, kind, message):
    with pytest.raises(kind, match=message):
        FileOptions(**{field: value})


def test_options_cannot_change_after_the_check():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FileOptions().coder = "fast"
