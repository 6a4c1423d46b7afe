"""The context coders in plain Python, for where there is no compiler.

The same decisions as in the compiled loops, in lists and numbers of Python: an array of eight
inputs is too short for NumPy to be quick. FORMAT.md, "Coder 2: context", has the operations.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from operator import mul
from typing import Any

import numpy as np

from hemp_reader.bitstream import Bytes
from hemp_reader.coding.context.model_tables import (
    COUNT_LIMIT,
    FREQUENCY_WEIGHT_START,
    PACE,
    RATE,
    SQUASH,
    STRETCH,
    STRETCH_MAX,
    WEIGHT_START,
    class_of,
    inherit,
)
from hemp_reader.coding.context.sizes import (
    DEGREES,
    FAST_DIGITS,
    FAST_LIMIT,
    LINE_NODES,
    LOW_NODES,
    MAX_KERNEL,
    MIN_LINE,
    MIXED_DIGITS,
    NEAR,
    NUM_CORRECTIONS,
    TUPLE_CYCLE,
)

_TOP, _BOTTOM = 1 << 48, 1 << 40
_HALF = 32_768
_FRESH = 1 << 31 | 1  # a counter: chance of a 1 in 22 bits, and a count in 10
_MANY = 2**22  # counters from which on they are held in four bytes each
_STRETCH, _SQUASH, _RATE = STRETCH.tolist(), SQUASH.tolist(), RATE.tolist()
_PACE, _NEAR = PACE.tolist(), NEAR.tolist()
_NEXT = [min(count + 1, COUNT_LIMIT) for count in range(COUNT_LIMIT + 1)]


class RangeDecoder:
    r"""Decisions from bytes; behind them there are zeros.

    Attributes:
        position: Bytes that were read, beyond the end too.

    Example:
        >>> RangeDecoder(b"\xff").decide(8192)
        1
    """

    def __init__(self, data: Bytes) -> None:
        self.data = bytes(data)
        self.position = 6
        self._code = int.from_bytes(self.data[:6].ljust(6, b"\0"), "big")
        self._range = _TOP

    def decide(self, one: int, bit: int = 0) -> int:
        """A decision that is 1 with probability `one` / 65536; `bit` is for who writes."""
        zero = (self._range >> 16) * (65536 - one)
        bit = 0
        if self._code >= zero:
            bit = 1
            self._code -= zero
            self._range -= zero
        else:
            self._range = zero
        while self._range < _BOTTOM:
            byte = self.data[self.position] if self.position < len(self.data) else 0
            self.position += 1
            self._code = self._code << 8 | byte
            self._range <<= 8
        return bit

    def uniform(self, size: int, value: int = 0) -> int:
        """A number below `size`, all of them equally likely; `value` is for who writes."""
        low, high = 0, size
        while high - low > 1:
            middle = (low + high) >> 1
            if self.decide(((high - middle) << 16) // (high - low)):
                low = middle
            else:
                high = middle
        return low


def decode_mixed(bits: RangeDecoder, dims: tuple[int, ...], model: tuple[int, ...]) -> np.ndarray:
    """The differences of a tensor that the context coder wrote.

    Args:
        bits: Behind the options.
        dims: Rows, middle, inner, and the length of the last axis.
        model: See `mixing_loop.code_indices`.

    Returns:
        int32, of each index in scan order.
    """
    rows, mid, inner, last = dims
    below, above, half, binary, flags, shift, frequencies = model
    row = mid * inner
    digits = (max(below, above) - 1).bit_length()
    mixed = min(digits, MIXED_DIGITS)
    nodes = 2 + 2 * ((1 << mixed) if binary else max(below, above))
    mixer = _Mixer(bits, nodes, dims, bool(frequencies) and inner > 1)
    border = 2 * row + last + 8
    past = array("i", bytes(4 * (border + rows * row)))
    classes = [class_of(value, 1 << shift) for value in (*range(above + 1), *range(-below, 0))]
    low, silence, silent = [_FRESH] * LOW_NODES, [_FRESH] * 2, 0
    here = border
    for a in range(rows):
        if flags:
            silent = _decide_alone(bits, silence, silent, COUNT_LIMIT)
            if silent:
                here += row
                continue
        for c in range(row):
            mixer.find(past, here, (a, c, here - border), classes, shift, dims)
            value = 0
            if half or mixer.decide(0, False):
                negative = int(above == 0)
                if below and above:
                    negative = mixer.decide(1, False)
                limit = below if negative else above
                size = 1
                if binary:
                    for lower in range(digits - 1, -1, -1):
                        digit = 0
                        if ((2 * size + 1) << lower) - (1 << digits) < limit:
                            if digits - lower - 1 < mixed:
                                digit = mixer.decide(2 * size + negative, False)
                            elif size < LOW_NODES:
                                digit = _decide_alone(bits, low, size, COUNT_LIMIT)
                            else:
                                digit = bits.decide(_HALF)
                        size = 2 * size + digit
                    size -= (1 << digits) - 1
                else:
                    while size < limit and mixer.decide(2 * size + negative, size > 1):
                        size += 1
                value = -size if negative else size
            past[here] = value
            here += 1
    return np.frombuffer(past, np.int32)[border:]


class _Mixer:
    """What was learned; see `mixer.Mixer`, whose words these are."""

    def __init__(
        self, bits: RangeDecoder, nodes: int, dims: tuple[int, ...], frequencies: bool
    ) -> None:
        rows, mid, inner, _ = dims
        row = mid * inner
        self._bits = bits
        self._nodes = nodes
        self._rows, self._row = rows, row
        self._frequencies = frequencies
        contexts = [1, 48, 4 * MAX_KERNEL, 125, 125, 15 * TUPLE_CYCLE]
        lines = [row if rows >= MIN_LINE else 1, rows if row >= MIN_LINE else 1]
        start = WEIGHT_START
        if frequencies:
            contexts[5], lines[1] = 25 * min(inner, MAX_KERNEL), DEGREES * lines[1]
            start = FREQUENCY_WEIGHT_START
        sizes = [*(nodes * count for count in contexts), *(LINE_NODES * count for count in lines)]
        self._starts = list(accumulate(sizes[:-1], initial=0))
        size = sum(sizes)
        self._counters: Any = [0] * size if size < _MANY else array("I", bytes(4 * size))
        self._weights = [start[min(node, 2)].tolist() for node in range(nodes)]
        first = [int(SQUASH[128 * (j - 16) + STRETCH_MAX]) << 6 for j in range(NUM_CORRECTIONS)]
        self._corrections = [first.copy() for _ in range(nodes)]
        self._uses = [0] * nodes
        self._bases = [0] * 8

    def find(
        self,
        past: array[int],
        here: int,
        place: tuple[int, int, int],
        classes: list[int],
        shift: int,
        dims: tuple[int, ...],
    ) -> None:
        """Find the contexts of a difference.

        Args:
            past: Differences, behind their border.
            here: Where in `past` it stands.
            place: Its row, its column, and its number in scan order.
            classes: Of differences, by their value.
            shift: log2 of the magnitude that counts as large.
            dims: See `decode_mixed`.
        """
        a, c, number = place
        _, _, inner, last = dims
        row = self._row
        left, left2 = past[here - 1], past[here - 2]
        left_class, up_class = classes[left], classes[past[here - row]]
        k = c % inner
        if inner > 1:
            over = over_next = 0
            if k >= last:
                over = past[here - last]
                if last > 1:
                    over_next = past[here - last + 1]
            before_class = classes[past[here - inner]]
            near = 2 * abs(left) + abs(left2) + 2 * abs(over)
            three = (left_class * 5 + classes[over]) * 5 + before_class
            four = (up_class * 5 + before_class) * 5 + classes[over_next]
        else:
            up_next = past[here - row + 1] if row > 1 else 0
            near = 2 * abs(left) + abs(left2) + abs(past[here - 3])
            three = (left_class * 5 + up_class) * 5 + classes[left2]
            four = (up_class * 5 + classes[past[here - 2 * row]]) * 5 + classes[up_next]
        if near >= 8:
            octave = near.bit_length() - 3
            near = min(4 * octave + (near >> octave), 47)
        far, far2 = min(abs(left) >> shift, 3), min(abs(left2) >> shift, 2)
        five = (number % TUPLE_CYCLE * 5 + left_class) * 3 + far2
        line = a if row >= MIN_LINE else 0
        if self._frequencies:
            along, across = divmod(k, last)
            across2 = classes[left2] if across >= 2 else 2
            along2 = classes[past[here - 2 * last]] if along >= 2 else 2
            lowest = classes[past[here - k]] if k else 2
            three = (across2 * 5 + along2) * 5 + lowest
            five = (min(k, MAX_KERNEL - 1) * 5 + across2) * 5 + along2
            line = line * DEGREES + min(along + across, DEGREES - 1)
        nodes = self._nodes
        starts = self._starts
        self._bases = [
            0,
            starts[1] + nodes * near,
            starts[2] + nodes * (4 * min(k, MAX_KERNEL - 1) + far),
            starts[3] + nodes * three,
            starts[4] + nodes * four,
            starts[5] + nodes * five,
            starts[6] + LINE_NODES * (c if self._rows >= MIN_LINE else 0),
            starts[7] + LINE_NODES * line,
        ]

    def decide(self, node: int, inherits: bool) -> int:
        """The decision at a node, which is learned."""
        counters = self._counters
        b0, b1, b2, b3, b4, b5, b6, b7 = self._bases
        line = node if node < LINE_NODES else LINE_NODES - 1
        own = (b0 + node, b1 + node, b2 + node, b3 + node, b4 + node, b5 + node)
        slots = (*own, b6 + line, b7 + line)
        found = [counters[slot] for slot in slots]
        if not all(found):
            self._begin(slots, found, inherits)
        inputs = [_STRETCH[counter >> 16] for counter in found]
        weights = self._weights[node]
        mix = sum(map(mul, inputs, weights)) >> 16
        if mix > STRETCH_MAX:
            mix = STRETCH_MAX
        elif mix < -STRETCH_MAX:
            mix = -STRETCH_MAX
        squashed = _SQUASH[mix + STRETCH_MAX]
        place = (-2047 if mix < -2047 else 2047 if mix > 2047 else mix) + 2048
        step, part = place >> 7, place & 127
        corrections = self._corrections[node]
        corrected = (corrections[step] * (128 - part) + corrections[step + 1] * part) >> 13
        one = (3 * squashed + corrected) >> 2
        bit = self._bits.decide(1 if one < 1 else 65535 if one > 65535 else one)
        if part >= 64:
            step += 1
        corrections[step] += ((bit << 22) - corrections[step]) >> 6
        uses = self._uses[node]
        error = ((bit << 16) - squashed) * _PACE[uses]
        if uses < 500:
            self._uses[node] = uses + 1
        self._weights[node] = [
            weight + ((value * error + 131072) >> 18)
            for weight, value in zip(weights, inputs)  # noqa: B905
        ]
        target = 4194303 if bit else 0
        for slot, counter in zip(slots, found):  # noqa: B905
            count, chance = counter & 1023, counter >> 10
            counters[slot] = (chance + (((target - chance) * _RATE[count]) >> 16)) << 10 | _NEXT[
                count
            ]
        return bit

    def _begin(self, slots: tuple[int, ...], found: list[int], inherits: bool) -> None:
        """Put new counters where `found` has 0."""
        if not found[0]:
            found[0] = _FRESH
            if inherits:
                found[0] = self._counters[slots[0] - 2] & 0xFFFFFC00 | 1
        parent = found[0] >> 10
        new = int(inherit(parent))
        for i in range(1, len(found)):
            if not found[i]:
                found[i] = new


def _decide_alone(bits: RangeDecoder, counters: Any, slot: int, limit: int) -> int:
    """A decision by a lone counter, which learns it."""
    counter = counters[slot]
    bit = bits.decide(min(max(counter >> 16, 1), 65535))
    count, chance = counter & 1023, counter >> 10
    chance += (((4194303 if bit else 0) - chance) * _RATE[count]) >> 16
    counters[slot] = chance << 10 | min(count + 1, limit)
    return bit


def decode_fast(bits: RangeDecoder, dims: tuple[int, ...], model: tuple[int, ...]) -> np.ndarray:
    """The differences of a tensor that the fast coder wrote; see `decode_mixed`."""
    rows, mid, inner, last = dims
    below, above, half, binary, _, shift, _ = model
    row = mid * inner
    digits = (max(below, above) - 1).bit_length()
    modelled = min(digits, FAST_DIGITS)
    nodes = 2 + 2 * ((1 << modelled) if binary else max(below, above))
    counters = [_FRESH] * (_SIGNS + 16 * nodes)
    border = 2 * row + last + 8
    past = array("i", bytes(4 * (border + rows * row)))
    classes = [class_of(value, 1 << shift) for value in (*range(above + 1), *range(-below, 0))]
    left = left2 = k = 0
    for here in range(border, len(past)):
        over = past[here - (last if inner > 1 and k >= last else row)]
        near = (2 * abs(left) + abs(left2) + 2 * abs(over)) >> shift
        base = _SIGNS + _NEAR[min(near, 63)] * nodes
        value = 0
        if half or _decide_alone(bits, counters, base, FAST_LIMIT):
            negative = int(above == 0)
            if below and above:
                before = past[here - inner] if inner > 1 else left2
                kinds = (classes[left] * 5 + classes[over]) * 5 + classes[before]
                negative = _decide_alone(bits, counters, kinds, FAST_LIMIT)
            limit = below if negative else above
            base += negative
            size = 1
            if binary:
                for lower in range(digits - 1, -1, -1):
                    digit = 0
                    if ((2 * size + 1) << lower) - (1 << digits) < limit:
                        if digits - lower - 1 < modelled:
                            digit = _decide_alone(bits, counters, base + 2 * size, FAST_LIMIT)
                        else:
                            digit = bits.decide(_HALF)
                    size = 2 * size + digit
                size -= (1 << digits) - 1
            else:
                while size < limit and _decide_alone(bits, counters, base + 2 * size, FAST_LIMIT):
                    size += 1
            value = -size if negative else size
        past[here] = value
        left2, left = left, value
        k = k + 1 if k + 1 < inner else 0
    return np.frombuffer(past, np.int32)[border:]


_SIGNS = 125  # counters of the sign, by three signs nearby
