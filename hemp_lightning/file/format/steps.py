"""Blocks of steps: biases, norm scales and statistics, rounded to a few hundred values a tensor.

`round_to_steps` moves the entries, within a tolerance. What it returns, and any other tensor whose
entries are whole multiples of a step or have few digits, `write_steps` codes without loss.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.coding import get_coder
from hemp_reader.bitstream import fold_sign, golomb_encode, golomb_parameter, varint
from hemp_reader.format.steps import DIGITS, EXPONENTS, INFINITY, LARGEST, MANTISSA, MULTIPLES
from hemp_reader.limits import MAX_LEVELS

TOLERANCE = 32
"""Entries move by at most one part in `TOLERANCE` of their tensor's deviation."""

_WIDE = 4.0  # from this ratio of the largest to the smallest entry on, digits are kept
_KEPT = 5  # digits kept after the first
_REACH = MAX_LEVELS // 4 - 1  # multiples on either side of the centre


def round_to_steps(tensor: Tensor, limits: Tensor | None = None) -> Tensor | None:
    """A float32 vector on few values, near the given ones.

    If no entry is negative and the largest is at least 4 times the smallest positive one, as it is
    with variances, each entry moves by at most 1/64 of itself: positive ones stay so, and 0 stays
    0. Else it moves by at most 1/32 of the mean distance of all entries to their median. A constant
    does not move.

    Args:
        tensor: float32, at most one axis, at least one entry.
        limits: float64, of the shape of `tensor`: what each entry may move at most, if it may not
            move as far as that.

    Returns:
        The vector that a block of steps holds, of the shape of `tensor`; None if there is none
        within the tolerance (more than one axis, infinity, too wide a range).

    Example:
        >>> round_to_steps(torch.tensor([0.0, 1.0, 2.0, 2.03]) - 1)
        tensor([-1.0000,  0.0000,  1.0000,  1.0312])
        >>> round_to_steps(torch.tensor([0.0011, 0.1, 20.0]))
        tensor([1.0986e-03, 9.9609e-02, 2.0000e+01])
    """
    if tensor.ndim > 1 or not tensor.numel() or not torch.isfinite(tensor).all():
        return None
    entries = tensor.reshape(-1).double().numpy()
    moves = np.full(len(entries), np.inf) if limits is None else limits.reshape(-1).numpy()
    low, high = float(entries.min()), float(entries.max())
    if low == high:
        rounded = entries.astype(np.float32) + np.float32(0)  # no -0
    elif low >= 0 and high >= _WIDE * float(entries[entries > 0].min()):
        rounded = _to_digits(tensor) if low > 0 else None
        if rounded is None or not _within(rounded, entries, moves):
            rounded = _to_multiples(entries, np.minimum(moves, entries / 2 ** (_KEPT + 1)))
    else:
        rounded = _to_multiples(entries, moves)
    return None if rounded is None else torch.from_numpy(rounded.copy()).reshape(tensor.shape)


def _to_digits(tensor: Tensor) -> np.ndarray | None:
    shift = MANTISSA - _KEPT
    bits = tensor.reshape(-1).contiguous().numpy().view(np.int32).astype(np.int64)
    rounded = (bits + (1 << (shift - 1))) >> shift << shift
    if int(bits.min()) < 1 << MANTISSA or int(rounded.max()) >= INFINITY:
        return None  # subnormal ones have fewer digits
    return rounded.astype(np.uint32).view(np.float32)


def _to_multiples(entries: np.ndarray, moves: np.ndarray) -> np.ndarray | None:
    """On the widest steps that keep within the tolerance and `moves`."""
    deviation = float(np.abs(entries - np.median(entries)).mean())
    widest = max(math.frexp(2 * deviation / TOLERANCE)[1] - 1, EXPONENTS[0])
    if widest > EXPONENTS[1]:
        return None
    for exponent in range(widest, EXPONENTS[0] - 1, -1):
        multiples = np.rint(np.ldexp(entries, -exponent))
        if float(np.abs(multiples).max()) > LARGEST:
            return None
        if float(np.abs(multiples - _centre(multiples)).max()) > _REACH:
            return None
        rounded = (np.ldexp(multiples, exponent) + 0.0).astype(np.float32)
        if _within(rounded, entries, moves):
            return rounded
    return None


def _within(rounded: np.ndarray, entries: np.ndarray, moves: np.ndarray) -> bool:
    return bool((np.abs(rounded - entries) <= moves).all())


def write_steps(tensors: list[np.ndarray]) -> bytes:
    """A block of tensors, the bits of their float32 entries as uint32 `(n,)` each.

    Raises:
        ValueError: If the entries of a tensor do not lie on few enough steps.

    Example:
        >>> write_steps([np.float32([-0.5, 0.25, 1]).view(np.uint32)]).hex()
        '00020700060306026e80'
    """
    found = [_on_steps(words) for words in tensors]
    parts = [np.packbits([form for form, _, _ in found], bitorder="little").tobytes()]
    centres = [int(_centre(whole)) for _, _, whole in found]
    for form in (MULTIPLES, DIGITS):
        chosen = [i for i in range(len(found)) if found[i][0] == form]
        for numbers in ([found[i][1] for i in chosen], [centres[i] for i in chosen]):
            if chosen:
                folded = fold_sign(np.diff(np.array(numbers, np.int64), prepend=0))
                k = golomb_parameter(folded)
                bits = np.packbits(golomb_encode(folded, k), bitorder="little")
                parts += [bytes([k]), bits.tobytes()]
    offsets = np.concatenate([w - c for (_, _, w), c in zip(found, centres, strict=True)])
    low = int(offsets.min())
    num_levels = int(offsets.max()) - low + 1
    if num_levels > MAX_LEVELS:
        raise ValueError(f"entries must lie on at most {MAX_LEVELS} steps; found {num_levels}")
    payload = get_coder("context").encode(offsets - low, num_levels)
    parts += [varint(-low), varint(num_levels - 1), varint(len(payload)), payload]
    return b"".join(parts)


def _centre(whole: np.ndarray) -> float | int:
    """The upper median, which is one of the numbers."""
    return np.sort(whole)[len(whole) // 2]


def _on_steps(words: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Form, exponent of the step or number of digits left out, and the whole numbers, int64."""
    entries = words.astype(np.uint32).view(np.float32).astype(np.float64)
    fractions, exponents = np.frexp(entries)
    mantissas = np.ldexp(fractions, 24).astype(np.int64)  # whole, of 24 bits
    zeros = np.frexp((mantissas & -mantissas).astype(np.float64))[1] - 1
    exponent = 0
    if mantissas.any():
        exponent = int((exponents - 24 + zeros)[mantissas != 0].min())
        exponent = min(exponent, EXPONENTS[1])
    multiples = np.ldexp(entries, -exponent)
    choices = []
    if float(np.abs(multiples).max()) <= LARGEST:
        choices.append((MULTIPLES, exponent, multiples.astype(np.int64)))
    if float(entries.min()) > 0:
        bits = words.astype(np.int64)
        ones = int(np.bitwise_or.reduce(bits))
        shift = min((ones & -ones).bit_length() - 1, MANTISSA)
        choices.append((DIGITS, shift, bits >> shift))
    if not choices:
        raise ValueError("entries must lie on steps; found a range that is too wide")
    return min(choices, key=lambda choice: int(np.ptp(choice[2])))
