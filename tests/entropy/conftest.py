"""Fixtures of the tests of the entropy term."""

from __future__ import annotations

import pytest


@pytest.fixture
def backend(request):
    """One of `BACKENDS`; the compiled loops as plain Python are one of their own."""
    if request.param == "interpreted":
        request.getfixturevalue("plain_loops")
        return "compiled"
    return request.param
