"""Transforms of kernels: against SciPy, and bit for bit against sums of plain numbers."""

from __future__ import annotations

import itertools
import struct
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from hemp_lightning.quantization.transforms import (
    asked_transform,
    best_transform,
    check_transform,
    coefficients_of,
    kernel_matrix,
    to_coefficients,
    weights_of,
)
from hemp_reader import cosines
from hemp_reader.cosines import cosine_table, to_weights
from hemp_reader.transforms import MAX_EXTENT, is_transformable

SHAPES = [(4, 3, 3, 3), (5, 1, 7), (2, 2, 3, 4, 5), (3, 1, 5, 5), (2, 3, 1, 4), (1, 1, 2)]


def drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_coefficients_are_those_of_scipy(shape):
    weights = drawn(shape)
    axes = tuple(range(2, len(shape)))
    wanted = dctn(weights.astype(np.float64), axes=axes, norm="ortho")
    found = to_coefficients(weights)
    assert found.dtype == np.float32
    assert found.shape == shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_of_coefficients_are_errors_of_weights(shape):
    weights, error = drawn(shape), 0.1 * drawn(shape, seed=1)
    moved = to_weights(to_coefficients(weights) + error) - weights
    assert np.square(moved).sum() == pytest.approx(np.square(error).sum(), rel=1e-5)


@pytest.mark.parametrize("extent", [1, 2, 3, 5, 7, 11, 16, 31, MAX_EXTENT])
def test_tables_are_orthonormal(extent):
    table = cosine_table(extent)
    np.testing.assert_allclose(table @ table.T, np.eye(extent), rtol=0, atol=2.0**-26)


def test_entries_of_tables_are_the_nearest_on_every_machine():
    """No entry lies so near the middle of two multiples that a library's cosine could decide."""
    margin = Decimal(1)
    with localcontext() as context:
        context.prec = 40
        for extent in range(1, MAX_EXTENT + 1):
            scale = 2**30 * (Decimal(2) / extent).sqrt()
            exact = [scale * cosine_of(quarter, 2 * extent) for quarter in range(extent + 1)]
            exact.append(2**30 / Decimal(extent).sqrt())
            whole = [entry.to_integral_value() for entry in exact]
            margin = min(
                [margin, *(Decimal("0.5") - abs(e - w) for e, w in zip(exact, whole, strict=True))]
            )
            wanted = np.full((extent, extent), whole[-1], object)
            for k in range(1, extent):
                for n in range(extent):
                    angle = (2 * n + 1) * k % (4 * extent)
                    angle = min(angle, 4 * extent - angle)
                    sign = -1 if angle > extent else 1
                    wanted[k, n] = sign * whole[min(angle, 2 * extent - angle)]
            assert (cosine_table(extent) * 2**30 == wanted.astype(float)).all()
    assert margin > Decimal("1e-5")


def cosine_of(numerator, denominator):
    """cos(pi * numerator / denominator) by its series, with 40 digits."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937511")
    angle = pi * (numerator % (2 * denominator)) / denominator
    term = total = Decimal(1)
    for i in itertools.count(1):
        term *= -angle * angle / ((2 * i - 1) * 2 * i)
        total += term
        if abs(term) < Decimal("1e-35"):
            return total


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_sums_in_the_stated_order(shape):
    """Plain Python floats, one product and one sum at a time, give the same bits."""
    coefficients = drawn(shape, seed=2)
    kernel = shape[2:]
    numbers = coefficients.reshape(-1, *kernel).astype(object)
    for axis, extent in enumerate(kernel, start=1):
        table = cosine_table(extent).tolist()
        turned = np.empty_like(numbers)
        for place in itertools.product(*map(range, numbers.shape)):
            line = numbers[(*place[:axis], slice(None), *place[axis + 1 :])]
            total = table[0][place[axis]] * float(line[0])
            for k in range(1, extent):
                total = total + table[k][place[axis]] * float(line[k])
            turned[place] = total
        numbers = turned
    flat = numbers.reshape(-1).tolist()
    assert to_weights(coefficients).tobytes() == struct.pack(f"={len(flat)}f", *flat)


@pytest.mark.parametrize("shape", [*SHAPES, (9, 16, 3, 3), (13, 10, 2, 4)])
def test_the_compiled_loop_gives_the_bits_of_the_plain_one(monkeypatch, shape):
    coefficients = drawn(shape)
    compiled = to_weights(coefficients), to_coefficients(coefficients.astype(np.float64))
    monkeypatch.setattr(cosines, "IS_COMPILED", False)
    monkeypatch.setattr(cosines, "_PIECE", 4)
    plain = to_weights(coefficients), to_coefficients(coefficients.astype(np.float64))
    assert [found.tobytes() for found in compiled] == [found.tobytes() for found in plain]


def test_other_memory_layouts_give_the_same():
    coefficients = drawn((5, 7, 3, 3))
    turned = np.asfortranarray(coefficients)
    assert to_weights(turned).tobytes() == to_weights(coefficients).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_matrix_products_agree_and_are_adjoint(shape):
    weights = torch.from_numpy(drawn(shape)).requires_grad_()
    coefficients = coefficients_of(weights, "dct")
    np.testing.assert_allclose(
        coefficients.detach().numpy(), to_coefficients(weights.detach().numpy()), atol=2e-6
    )
    slope = torch.from_numpy(drawn(shape, seed=1))
    (gradient,) = torch.autograd.grad(coefficients, weights, slope)
    assert torch.allclose(gradient, weights_of(slope, "dct"), atol=2e-6)
    assert coefficients_of(weights, "none") is weights


def test_the_matrix_of_a_kernel_is_the_transform():
    weights = drawn((4, 3, 3, 5)).astype(np.float64)
    found = weights.reshape(-1, 15) @ kernel_matrix(weights.shape).T
    np.testing.assert_allclose(found, to_coefficients(weights).reshape(-1, 15), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 4, 3, 3), True),  # a convolution, or a transposed one
        ((8, 1, 3, 3), True),  # depthwise
        ((8, 4, 7), True),
        ((8, 4, 3, 3, 3), True),
        ((8, 4, 1, 1), False),
        ((8, 4), False),
        ((8,), False),
        ((), False),
        ((1, 197, 768), False),  # positions of a transformer
        ((4, 4, 2, 2, 2, 2), False),
        ((4, 4, 64, 17), False),
    ],
)
def test_kernels_alone_are_transformed(shape, expected):
    assert is_transformable(shape) == expected
    assert asked_transform("auto", "w", shape) == ("auto" if expected else "none")
    assert asked_transform("none", "w", shape) == "none"


def test_transforms_by_name():
    chosen = {"a": "dct", "b": "none", "c": "auto"}
    shape = (2, 2, 3, 3)
    found = [asked_transform(chosen, name, shape) for name in "abcd"]
    assert found == ["dct", "none", "auto", "none"]
    check_transform(chosen)
    for wrong in ("fft", {"a": "fft"}):
        with pytest.raises(ValueError, match=r"`transform` must be one of auto, none, dct.*'fft'"):
            check_transform(wrong)


def test_smooth_kernels_end_in_few_coefficients():
    """A kernel that is a plane has coefficients along the axes alone."""
    y, x = np.mgrid[:3, :3]
    plane = (2.0 + 3 * y - x).astype(np.float32)[None, None]
    coefficients = to_coefficients(plane)[0, 0]
    assert abs(coefficients[1:, 1:]).max() < 1e-6
    assert coefficients[0, 0] == pytest.approx(plane.sum() / 3)
    assert np.square(coefficients).sum() == pytest.approx(np.square(plane).sum(), rel=1e-6)


def test_kernels_that_are_not_smooth_keep_their_places():
    smooth = to_weights(drawn((40, 8, 3, 3)) / np.float32([[1, 2, 4], [2, 4, 8], [4, 8, 16]]))
    assert best_transform(smooth) == "dct"
    few = np.float32([-1, 0, 1])[np.random.default_rng(0).integers(0, 3, smooth.shape)]
    assert best_transform(few + 0 * smooth) == "none"
    sparse = np.where(np.random.default_rng(1).random(smooth.shape) < 0.1, smooth, 0)
    assert best_transform(sparse.astype(np.float32)) == "none"
    assert best_transform(np.zeros((4, 4, 3, 3), np.float32)) == "none"
    assert best_transform(drawn((4, 4))) == "none"
