"""Every coder by its name: what it encodes it decodes, whatever it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hemp_lightning.coding import CODERS, get_coder

SHAPES = array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=7)


@st.composite
def index_sets(draw):
    """Indices of any shape and content, often all equal, and their number of levels."""
    num_levels = draw(st.integers(2, 65_536) | st.sampled_from([2, 3, 256, 257, 65_535, 65_536]))
    shape = draw(SHAPES)
    level = st.integers(0, num_levels - 1)
    if draw(st.booleans()):
        return np.full(shape, draw(level)), num_levels
    return draw(arrays(np.int64, shape, elements=level, fill=level)), num_levels


@pytest.mark.parametrize("name", CODERS)
@settings(max_examples=60, deadline=None)
@given(index_sets())
def test_identity(name, index_set):
    indices, num_levels = index_set
    coder = get_coder(name)
    decoded = coder.decode(coder.encode(indices, num_levels), indices.shape, num_levels)
    assert decoded.dtype == (np.uint8 if num_levels <= 256 else np.uint16)
    np.testing.assert_array_equal(decoded, indices)


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("num_levels", [2, 7, 300, 65_536])
@pytest.mark.parametrize("shape", [(), (1,), (100_003,), (40, 30, 3, 3), (2, 3, 4, 5, 6)])
def test_all_equal_indices(name, num_levels, shape):
    for level in (0, num_levels // 2, num_levels - 1):
        indices = np.full(shape, level)
        data = get_coder(name).encode(indices, num_levels)
        np.testing.assert_array_equal(get_coder(name).decode(data, shape, num_levels), indices)
        if name not in ("raw", "lzma", "bz2", "zlib"):
            assert len(data) <= 14


def test_levels_that_are_as_many_as_there_can_be():
    indices = np.arange(65_536).reshape(16, 16, 16, 4, 4)
    for name in CODERS:
        data = get_coder(name).encode(indices, 65_536)
        decoded = get_coder(name).decode(data, indices.shape, 65_536)
        np.testing.assert_array_equal(decoded, indices)
        if name in ("context", "fast", "raw"):
            assert len(data) <= 2 * 65_536 + 20
