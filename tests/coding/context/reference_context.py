"""A slow decoder of the context coder's payloads, written from FORMAT.md in plain Python."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import product

SCANS = ("row_major", "kernel", "input", "output")
with localcontext() as context:
    context.prec = 60
    _UPPER = [int(65536 / (1 + (Decimal(-x) / 256).exp())) for x in range(3072)]
SQUASH = {x: min(p, 65535) for x, p in enumerate(_UPPER)}
SQUASH |= {-x: 65536 - p for x, p in list(SQUASH.items())}
STRETCH = []
_x = -3071
for _p in range(65536):
    while _x < 3071 and SQUASH[_x + 1] <= _p:
        _x += 1
    STRETCH.append(_x)
START = (
    (0, 18000, 9000, 14000, 5000, 9000, 19000, 8000),
    (0, 0, 0, 32000, 13000, 25000, 6000, 0),
    (3000, 13000, 10000, 14000, 5000, 10000, 9000, 7000),
)
FREQUENCY_START = (
    (-17000, 17000, 10000, -1000, 4000, 11000, 32000, 20000),
    (-3000, -2000, -4000, 26000, 6000, 28000, 7000, 2000),
    (-3000, 8000, 16000, 9000, 3000, 15000, 10000, 6000),
)


class Bits:
    """The range decoder."""

    def __init__(self, data: bytes) -> None:
        self.data, self.next, self.range = data, 6, 1 << 48
        self.code = int.from_bytes(data[:6].ljust(6, b"\0"), "big")

    def decide(self, one: int) -> int:
        zero = (self.range >> 16) * (65536 - one)
        bit = int(self.code >= zero)
        self.code -= zero * bit
        self.range = self.range - zero if bit else zero
        while self.range < 1 << 40:
            byte = self.data[self.next] if self.next < len(self.data) else 0
            self.code, self.range, self.next = self.code << 8 | byte, self.range << 8, self.next + 1
        return bit

    def uniform(self, size: int) -> int:
        low, high = 0, size
        while high - low > 1:
            middle = (low + high) // 2
            if self.decide((high - middle) * 65536 // (high - low)):
                low = middle
            else:
                high = middle
        return low


class Counter:
    def __init__(self, chance: int = 1 << 21, count: int = 1) -> None:
        self.chance, self.count = chance, count

    def learn(self, bit: int, limit: int = 1020) -> None:
        rate = 131072 // (2 * self.count + 3)
        self.chance += ((bit * 4194303 - self.chance) * rate) >> 16
        self.count = min(self.count + 1, limit)


class Mixer:
    """Counters by context, weights and correction by node; decodes one decision."""

    def __init__(self, bits: Bits, start: tuple = START) -> None:
        self.start = start
        self.bits, self.counters, self.low, self.silence = bits, {}, {}, {}
        self.weights, self.uses, self.corrections = {}, {}, {}

    def plain(self, table: dict, key: int) -> int:
        counter = table.setdefault(key, Counter())
        bit = self.bits.decide(min(max(counter.chance >> 6, 1), 65535))
        counter.learn(bit)
        return bit

    def decide(self, node: int, contexts: list, inherit_unary: bool) -> int:
        first = (0, 0, node)
        if first not in self.counters:
            below = self.counters[0, 0, node - 2].chance if inherit_unary else 1 << 21
            self.counters[first] = Counter(below)
        parent = self.counters[first].chance
        found = []
        for i, c in enumerate(contexts):
            key = (i, c, min(node, 7) if i > 5 else node)
            if key not in self.counters:
                rare = min(parent, 4194304 - parent)
                count = min(max((1 << 18) // (rare + 1), 1), 255)
                self.counters[key] = Counter(parent, count)
            found.append(self.counters[key])
        inputs = [STRETCH[c.chance >> 6] for c in found]
        weights = self.weights.setdefault(node, list(self.start[min(node, 2)]))
        dot = sum(weight * value for weight, value in zip(weights, inputs, strict=True)) >> 16
        mix = min(max(dot, -3071), 3071)
        squashed = SQUASH[mix]
        place = min(max(mix, -2047), 2047) + 2048
        step, part = place // 128, place % 128
        corrections = self.corrections.setdefault(
            node, [SQUASH[min(max((step - 16) * 128, -3071), 3071)] << 6 for step in range(33)]
        )
        corrected = (corrections[step] * (128 - part) + corrections[step + 1] * part) >> 13
        bit = self.bits.decide(min(max((3 * squashed + corrected) >> 2, 1), 65535))
        step += part >= 64
        corrections[step] += ((bit << 22) - corrections[step]) >> 6
        uses = self.uses.get(node, 0)
        error = ((bit << 16) - squashed) * (5 + 500 // (uses + 50))
        self.uses[node] = min(uses + 1, 500)
        for i, value in enumerate(inputs):
            weights[i] += (value * error + 131072) >> 18
            found[i].learn(bit)
        return bit


def decode(data: bytes, shape: tuple[int, ...], num_levels: int, coder: int = 2) -> list[int]:
    """The indices in row-major order; coders are 2 context, 6 fast and 7 frequency."""
    bits = Bits(data)
    count = math.prod(shape)
    if bits.decide(8192):
        return [bits.uniform(num_levels) for _ in range(count)]
    half, middle = bits.decide(8192), num_levels // 2
    below, above, centre = middle, num_levels - middle, middle
    if not half:
        centre = bits.uniform(num_levels) if bits.decide(8192) else middle
        below, above = centre, num_levels - 1 - centre
    binary = 1 if max(below, above) > 40 else bits.decide(8192)
    flags = 0 if half else bits.decide(8192)
    scan, axes = "row_major", list(range(len(shape)))
    if len(shape) >= 2:
        scan = SCANS[2 * bits.decide(8192) + bits.decide(8192)]
        first, second = (0, 1) if scan in ("row_major", "input") else (1, 0)
        inner = list(range(2, len(shape)))
        axes = (
            [first, second, *inner] if scan in ("row_major", "kernel") else [first, *inner, second]
        )
    shift = 0
    while shift < 15 and bits.decide(24576):
        shift += 1
    turned = [shape[a] for a in axes]
    rows, mid = (turned[0], turned[1]) if len(turned) > 1 else (1, count)
    inner, last = (math.prod(turned[2:]), turned[-1]) if len(turned) > 2 else (1, 1)
    read = {2: _differences, 6: _fast_differences, 7: _frequency_differences}[coder]
    values = read(bits, rows, mid * inner, inner, last, below, above, half, binary, flags, shift)
    result = {}
    for place, value in zip(product(*map(range, turned)), values, strict=True):
        original = [0] * len(shape)
        for axis, p in zip(axes, place, strict=True):
            original[axis] = p
        result[tuple(original)] = value - (value > 0) + middle if half else value + centre
    return [result[place] for place in product(*map(range, shape))]


def _frequency_differences(bits, *options):
    return _differences(bits, *options, frequencies=options[2] > 1)


def _differences(
    bits, rows, row, inner, last, below, above, half, binary, flags, shift, frequencies=False
):
    mixer, past = Mixer(bits, FREQUENCY_START if frequencies else START), []
    digits = (max(below, above) - 1).bit_length()
    scale = 1 << shift

    def class_of(value):
        size = abs(value)
        if 2 * size < scale:
            return 2
        return (2 + (1 if size < 2 * scale else 2)) if value > 0 else (1 if size < 2 * scale else 0)

    def back(distance):
        return past[-distance] if 0 < distance <= len(past) else 0

    silent = 0
    for row_number, column in product(range(rows), range(row)):
        if column == 0 and flags:
            silent = mixer.plain(mixer.silence, silent)
        if flags and silent:
            past.append(0)
            continue
        position = column % inner
        left, left2, up = back(1), back(2), back(row)
        if inner > 1:
            over, over_next = (back(last), back(last - 1)) if position >= last else (0, 0)
            near = 2 * abs(left) + abs(left2) + 2 * abs(over)
            before = back(inner)
            three = class_of(left), class_of(over), class_of(before)
            four = class_of(up), class_of(before), class_of(over_next)
        else:
            left3, up2, up_next = back(3), back(2 * row), back(row - 1)
            near = 2 * abs(left) + abs(left2) + abs(left3)
            three = class_of(left), class_of(up), class_of(left2)
            four = class_of(up), class_of(up2), class_of(up_next)
        if near >= 8:
            octave = near.bit_length() - 3
            near = min(4 * octave + (near >> octave), 47)
        contexts = [
            0,
            near,
            (min(position, 63), min(abs(left) >> shift, 3)),
            three,
            four,
            (len(past) % 12, class_of(left), min(abs(left2) >> shift, 2)),
            column if rows >= 8 else 0,
            row_number if row >= 8 else 0,
        ]
        if frequencies:
            along, across = position // last, position % last
            across2 = class_of(back(2) if across >= 2 else 0)
            along2 = class_of(back(2 * last) if along >= 2 else 0)
            contexts[3] = across2, along2, class_of(back(position))
            contexts[5] = min(position, 63), across2, along2
            contexts[7] = contexts[7], min(along + across, 3)
        past.append(_difference(mixer, contexts, below, above, half, binary, digits))
    return past


def _difference(mixer, contexts, below, above, half, binary, digits):
    if not half and not mixer.decide(0, contexts, False):
        return 0
    negative = mixer.decide(1, contexts, False) if below and above else int(above == 0)
    limit, sign = (below, -1) if negative else (above, 1)
    size = 1
    if not binary:
        while size < limit and mixer.decide(2 * size + negative, contexts, size > 1):
            size += 1
        return sign * size
    for lower in range(digits - 1, -1, -1):
        bit = 0
        if ((2 * size + 1) << lower) - (1 << digits) < limit:
            if digits - lower - 1 < 5:
                bit = mixer.decide(2 * size + negative, contexts, False)
            elif size < 1024:
                bit = mixer.plain(mixer.low, size)
            else:
                bit = mixer.bits.decide(32768)
        size = 2 * size + bit
    return sign * (size - (1 << digits) + 1)


def _fast_differences(bits, rows, row, inner, last, below, above, half, binary, flags, shift):
    assert not flags
    past, counters, scale = [], {}, 1 << shift
    digits = (max(below, above) - 1).bit_length()

    def class_of(value):
        size = abs(value)
        side = 0 if 2 * size < scale else 1 if size < 2 * scale else 2
        return side if value > 0 else -side

    def back(distance):
        return past[-distance] if 0 < distance <= len(past) else 0

    def decide(*key):
        counter = counters.setdefault(key, Counter())
        bit = bits.decide(min(max(counter.chance >> 6, 1), 65535))
        counter.learn(bit, 254)
        return bit

    for t in range(rows * row):
        left, left2 = back(1), back(2)
        over = back(last) if inner > 1 and t % inner >= last else back(row)
        near = min((2 * abs(left) + abs(left2) + 2 * abs(over)) >> shift, 63)
        if near >= 4:
            near = 4 + (near - 4) // 2 if near < 12 else min(8 + (near - 12) // 4, 15)
        if not half and not decide(near, 0):
            past.append(0)
            continue
        negative = int(above == 0)
        if below and above:
            negative = decide(
                class_of(left), class_of(over), class_of(back(inner) if inner > 1 else left2)
            )
        limit, sign, size = (below, -1, 1) if negative else (above, 1, 1)
        if binary:
            for lower in range(digits - 1, -1, -1):
                bit = 0
                if ((2 * size + 1) << lower) - (1 << digits) < limit:
                    modelled = digits - lower - 1 < 8
                    bit = decide(near, 2 * size + negative) if modelled else bits.decide(32768)
                size = 2 * size + bit
            size -= (1 << digits) - 1
        else:
            while size < limit and decide(near, 2 * size + negative):
                size += 1
        past.append(sign * size)
    return past
