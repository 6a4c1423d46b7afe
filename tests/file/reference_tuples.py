"""The coder of tuples in the second reader of `.hemp` files, see `reference_file.py`."""

from __future__ import annotations

import itertools
import math

from tests.file.reference_bits import fixed, golomb


def decode_tuples(reader, shape, num_levels):
    options, count = reader.varint(), math.prod(shape)
    order, scan = options // 4 + 1, options % 4
    tuples, width = count // order, (num_levels - 1).bit_length()
    bits = reader.bits() if count % order else None
    rest = [fixed(bits, width) for _ in range(count % order)]
    flat = []
    if tuples:
        cells, weights, escape = read_table(reader)
        levels, spelled, _ = read_table(reader) if escape else ([], [], False)
        words = reader.take(len(reader.data) - reader.at)
        words += bytes(-len(words) % 4)
        stack = [int.from_bytes(words[i : i + 4], "little") for i in range(0, len(words), 4)]
        state = 0
        while stack and state < 2**32:
            state = state << 32 | stack.pop()

        def symbols(weights, size):
            nonlocal state
            found = []
            for _ in range(size):
                symbol = left = 0
                if len(weights) > 1:
                    quantile = state & (2**24 - 1)
                    while quantile >= left + weights[symbol]:
                        left += weights[symbol]
                        symbol += 1
                    state = (state >> 24) * weights[symbol] + quantile - left
                    if state < 2**32 and stack:
                        state = state << 32 | stack.pop()
                found.append(symbol)
            return found

        listed = symbols(weights, tuples)
        rare = iter(symbols(spelled, order * sum(escape and s == 0 for s in listed)))
        for symbol in listed:
            if escape and symbol == 0:
                flat += [levels[next(rare)] for _ in range(order)]
            else:
                cell = cells[symbol - escape]
                flat += [cell // num_levels**p % num_levels for p in reversed(range(order))]
        assert state == 0 and not stack
    flat += rest
    inner = tuple(range(2, len(shape)))
    axes = [(0, 1, *inner), (1, 0, *inner), (0, *inner, 1), (1, *inner, 0)][scan]
    axes = axes if len(shape) > 1 else range(len(shape))
    indices = [0] * count
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    positions = itertools.product(*(range(shape[axis]) for axis in axes))
    for value, position in zip(flat, positions, strict=True):
        indices[sum(p * strides[axis] for p, axis in zip(position, axes, strict=True))] = value
    return indices


def read_table(reader):
    """Cells, weights of all symbols, and whether the first of them is the escape."""
    size, parameters = reader.varint(), reader.byte()
    bits = reader.bits()
    gaps = golomb(bits, size, parameters & 31)
    codes = golomb(bits, size + 1, parameters >> 5)
    cells = [gap + i for i, gap in enumerate(itertools.accumulate(gaps))]
    counts = [middle(code + (i > 0)) for i, code in enumerate(codes)]
    escape = counts[0] > 0
    counts = counts if escape else counts[1:]
    weights = [1 + c * (2**24 - len(counts)) // sum(counts) for c in counts]
    weights[counts.index(max(counts))] += 2**24 - sum(weights)
    return cells, weights, escape


def middle(code):
    """The count that a code stands for."""
    first = 1
    for digits in itertools.count(1):
        kept = max(digits - 3, 0) // 2
        shift = digits - 1 - kept
        if code < first + (1 << kept):
            return ((code - first + (1 << kept)) << shift) + (1 << shift) // 2 if code else 0
        first += 1 << kept
