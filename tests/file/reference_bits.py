"""Bytes, bits and numbers of the second reader of `.hemp` files, see `reference_file.py`."""

from __future__ import annotations

import itertools


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        self.at += size
        assert self.at <= len(self.data)
        return self.data[self.at - size : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def bits(self):
        for position in itertools.count(8 * self.at):
            self.at = position // 8 + 1
            yield self.data[position // 8] >> position % 8 & 1


def fixed(bits, width):
    return sum(next(bits) << place for place in range(width))


def golomb(bits, count, k):
    zeros = []
    for _ in range(count):
        zeros.append(0)
        while not next(bits):
            zeros[-1] += 1
    return [((1 << z) - 1 << k) + fixed(bits, z + k) for z in zeros]


def unfold(value):
    return -(value // 2) - 1 if value % 2 else value // 2
