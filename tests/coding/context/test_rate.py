"""What the context coder says that an index costs, or would cost with another level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hemp_lightning.coding.context import coder as context
from hemp_lightning.coding.context.coder import ContextCoder
from tests.coding.context.cases import (
    CASES,
    CODERS,
)


@pytest.mark.parametrize("loops", ["compiled", "interpreted"])
@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", ["convolution", "linear", "sparse", "half", "many_levels"])
def test_rate_adds_up_to_the_payload(
    name: str, coder: str, loops: str, request: pytest.FixtureRequest
) -> None:
    if loops == "interpreted":
        request.getfixturevalue("plain_loops")
    indices, num_levels = CASES[name]
    rate = CODERS[coder]().rate(indices, num_levels)
    assert rate.shape == indices.shape and rate.dtype == np.float64 and (rate >= 0).all()
    size = len(CODERS[coder]().encode(indices, num_levels))
    assert rate.sum() / 8 == pytest.approx(size, abs=6)


def test_a_rare_level_has_a_high_rate() -> None:
    indices = np.full((40, 40), 2)
    indices[17, 23] = 4
    rate = ContextCoder().rate(indices, 5)
    assert rate.argmax() == 17 * 40 + 23 and rate[17, 23] > 5


@pytest.mark.parametrize("name", ["convolution", "linear", "one_sided", "top_level", "half"])
def test_lengths_of_true_levels_are_the_rate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    indices, num_levels = CASES[name]
    choose = context.choose
    unary = lambda *given: replace(choose(*given), binary=False, flags=False)  # noqa: E731
    monkeypatch.setattr(context, "choose", unary)
    lengths = ContextCoder().lengths(indices, num_levels)
    assert lengths.shape == (*indices.shape, num_levels)
    true = np.take_along_axis(lengths, indices[..., None], -1)[..., 0]
    rate = ContextCoder().rate(indices, num_levels)
    # What a decision teaches the next ones of the same index is not in the lengths: that shows
    # while the counters are fresh.
    assert np.median(abs(true - rate)) < 2e-3
    late = slice(indices.size // 2, None)
    assert true.ravel()[late].mean() == pytest.approx(rate.ravel()[late].mean(), rel=0.01)


@pytest.mark.parametrize("loops", ["compiled", "interpreted"])
@pytest.mark.parametrize("name", ["convolution", "linear", "one_sided", "half"])
def test_lengths_are_those_of_a_probability(
    name: str, loops: str, request: pytest.FixtureRequest
) -> None:
    if loops == "interpreted":
        request.getfixturevalue("plain_loops")
    indices, num_levels = CASES[name]
    lengths = ContextCoder().lengths(indices, num_levels).astype(np.float64)
    np.testing.assert_allclose(np.exp2(-lengths).sum(-1), 1, rtol=1e-5)


def test_length_of_another_last_level_is_what_it_costs() -> None:
    """Only the last index is replaced, so that no later context changes: `rate` must agree."""
    indices, num_levels = CASES["linear"]
    options = context.choose(indices.astype(np.uint8), num_levels)
    fixed = replace(options, binary=False, flags=False, scan="row_major")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "choose", lambda *_: fixed)
        lengths = ContextCoder().lengths(indices, num_levels)
        for level in range(num_levels):
            other = indices.copy()
            other[-1, -1] = level
            found = ContextCoder().rate(other, num_levels)[-1, -1]
            assert found == pytest.approx(lengths[-1, -1, level], rel=0.02), level


@pytest.mark.parametrize("shape", [(0,), (3, 0), (4, 5)])
def test_what_shape_and_levels_already_say_costs_nothing(shape: tuple[int, ...]) -> None:
    indices = np.zeros(shape, np.uint8)
    for coder in CODERS.values():
        rate = coder().rate(indices, 1)
        assert rate.shape == shape and not rate.any()
        lengths = coder().lengths(indices, 1)
        assert lengths.shape == (*shape, 1) and not lengths.any()
        assert coder().table_bytes(coder().encode(indices, 1), shape, 1) == 0


def test_lengths_are_for_few_levels() -> None:
    assert ContextCoder().lengths(np.arange(4), 256).shape == (4, 256)
    with pytest.raises(ValueError, match="`num_levels` must be at most 256 for lengths; found 257"):
        ContextCoder().lengths(np.arange(4), 257)
