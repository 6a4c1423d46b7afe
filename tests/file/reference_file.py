"""A second reader of `.hemp` files, after FORMAT.md: plain Python, nothing of the package.

Slow, trusting and short; the tests hold it against the real one. Beside it are the bits
(`reference_bits.py`) and the coder of tuples (`reference_tuples.py`).
"""

from __future__ import annotations

import bz2
import hashlib
import importlib.util
import itertools
import lzma
import math
import struct
import zlib
from decimal import Decimal, localcontext
from pathlib import Path

from tests.file.reference_bits import Reader, fixed, golomb, unfold
from tests.file.reference_tuples import decode_tuples

WORDS = (
    ".weight .bias .running_mean .running_var .num_batches_tracked conv .conv layer .bn features. "
    "classifier .downsample. shortcut linear fc norm attn self_attn mlp layers. blocks. block "
    "encoder decoder embed proj in_proj_weight in_proj_bias network. model. head"
).split()
# storage: (dtype, bytes of an entry, bytes of a word)
STORAGES = {
    0: ("float32", 4, 4), 1: ("float32 as float16", 2, 2), 2: ("float16", 2, 2),
    3: ("bfloat16", 2, 2), 4: ("float64", 8, 8), 5: ("int8", 1, 1), 6: ("int16", 2, 2),
    7: ("int32", 4, 4), 8: ("int64", 8, 8), 9: ("uint8", 1, 1), 10: ("bool", 1, 1),
    11: ("complex64", 8, 4), 12: ("complex128", 16, 8), 13: ("complex32", 4, 2),
    14: ("uint16", 2, 2), 15: ("uint32", 4, 4), 16: ("uint64", 8, 8),
    17: ("float8_e4m3fn", 1, 1), 18: ("float8_e5m2", 1, 1), 19: ("float32 as bfloat16", 2, 2),
    20: ("float32 as steps", 4, 4),
}  # fmt: skip


def read_file(data, base=None):
    """name -> (dtype, shape, words); of quantized tensors float32 words, of aliases a name."""
    records, update = read_records(data)
    if update:
        before, nothing = read_records(base)
        assert not nothing and digest(before) == update[0]
        changed = {r["name"]: r for r in records}
        for record, relation in zip(records, update[1], strict=True):
            change(record, relation, next(r for r in before if r["name"] == record["name"]))
        records = [changed.get(r["name"], r) for r in before]
    return {
        r["name"]: records[r["alias"]]["name"] if "alias" in r else tensor_of(r) for r in records
    }


def read_records(data):
    """Records with what the sections hold of them; and digest and relations of an update."""
    magic, version, flags, size, checksum = struct.unpack("<4sBBII", data[:14])
    assert magic == b"HEMP" and version in (1, 2, 3, 4) and flags in (0, 1)
    assert zlib.crc32(data[:10] + data[14 : 14 + size]) == checksum
    directory = Reader(data[14 : 14 + size])
    if flags:
        length = directory.varint()
        directory = Reader(zlib.decompress(directory.data[directory.at :], -15))
        assert len(directory.data) == length
    records, sections, _, update = read_directory(directory, version)
    at = 14 + size
    for number, length in enumerate(sections):
        section = data[at : at + length]
        assert zlib.crc32(section) == struct.unpack("<I", data[at + length : at + length + 4])[0]
        relations = update[1] if update else [0] * len(records)
        group = [(r, n) for r, n in zip(records, relations, strict=True) if r.get("in") == number]
        read_section(Reader(section), [r for r, _ in group], [n for _, n in group])
        at += length + 4
    assert at == len(data)
    return records, update


def varint(value):
    digits = [value & 127]
    while value := value >> 7:
        digits.append(value & 127)
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])


def digest(records):
    """Of what a base holds."""
    data = b""
    for record in records:
        name = record["name"].encode()
        data += varint(len(name)) + name
        if "alias" in record:
            data += b"\2" + varint(record["alias"])
            continue
        data += bytes([record["kind"], record["storage"]]) + varint(len(record["shape"]))
        data += b"".join(map(varint, record["shape"]))
        if record["kind"] == 0:
            data += bytes([record["transform"]]) + varint(record["levels"])
            data += struct.pack(f"<{record['levels']}f", *record["values"])
            kind = "B" if record["levels"] <= 256 else "H"
            data += struct.pack(f"<{len(record['indices'])}{kind}", *record["indices"])
        else:
            width = STORAGES[record["storage"]][2]
            data += b"".join(word.to_bytes(width, "little") for word in record["words"])
    return hashlib.sha256(data).digest()


def change(record, relation, before):
    """Make a record of an update what it is without its base."""
    if relation in (1, 2):
        levels, count = record["levels"], len(before["indices"])
        distances = [[abs(new - old) for new in record["values"]] for old in before["values"]]
        nearest = [row.index(min(row)) for row in distances]
        expected = [nearest[index] for index in before["indices"]]
        order = range(count)
        if relation == 2:
            order = sorted(order, key=lambda place: expected[place])  # which is stable
        indices = [0] * count
        for place, difference in zip(order, record["indices"], strict=True):
            indices[place] = (difference + expected[place] - levels // 2) % levels
        record["indices"] = indices
    elif relation == 3:
        bits = 8 * STORAGES[before["storage"]][2]
        words = [
            (old + unfold(new)) % 2**bits
            for new, old in zip(record["words"], before["words"], strict=True)
        ]
        record |= {"storage": before["storage"], "words": words}


def tensor_of(record):
    """dtype, shape and words."""
    dtype, shape = STORAGES[record["storage"]][0], record["shape"]
    if record["kind"] == 1:
        return dtype, shape, tuple(record["words"])
    weights = [record["values"][i] for i in record["indices"]]
    if record["transform"]:
        weights = back_from_cosines(weights, shape[2:])
    return (
        dtype,
        shape,
        struct.unpack(f"<{len(weights)}I", struct.pack(f"<{len(weights)}f", *weights)),
    )


def read_metadata(data):
    """The metadata of a file whose directory is not deflated."""
    size, version = struct.unpack("<I", data[6:10])[0], data[4]
    return read_directory(Reader(data[14 : 14 + size]), version)[2]


def read_directory(reader, version):
    records, short, section = [], b"", -1
    for _ in range(reader.varint()):
        sizes = reader.byte()
        shared = sizes >> 4 if sizes >> 4 < 15 else 15 + reader.varint()
        own = sizes & 15 if sizes & 15 < 15 else 15 + reader.varint()
        short = short[:shared] + reader.take(own)
        name, parts = b"", iter(short)
        for code in parts:
            if code == 0:
                name += bytes([next(parts)])
            else:
                name += WORDS[code - 1].encode() if code < 32 else bytes([code])
        record = {"name": name.decode()}
        records.append(record)
        tag = reader.byte()
        kind, ndim = tag & 3, tag >> 2 & 7
        transformed = kind == 3
        kind = 0 if transformed else kind
        if kind == 2:
            record["alias"] = reader.varint()
            continue
        section += tag >> 6 & 1
        storage = reader.byte() if tag & 32 else kind  # float32, or float32 as float16
        if ndim == 7:
            ndim += reader.varint()
        record |= {"in": section, "kind": kind, "storage": storage, "wide": tag >> 7}
        record["shape"] = tuple(reader.varint() for _ in range(ndim))
        if kind == 0:
            record["transform"] = reader.byte() if transformed else 0
            assert record["transform"] == transformed <= (version >= 3)
            record["levels"], record["size"] = reader.varint(), 0
            if record["levels"] > 1:
                record["coder"], record["size"] = reader.byte(), reader.varint()
    sizes = [reader.varint() for _ in range(section + 1)]
    metadata = {}
    for _ in range(reader.varint() if version >= 3 else 0):
        key, value = (reader.take(reader.varint()).decode() for _ in range(2))
        metadata[key] = value
    update = None
    if version == 4 and reader.byte():
        update = reader.take(32), reader.take(len(records))
    assert reader.at == len(reader.data)
    return records, sizes, metadata, update


def read_section(reader, records, relations):
    quantized = [r for r in records if r["kind"] == 0]
    narrow = [r for r in quantized if not r["wide"]]
    if narrow:
        parameters = reader.byte()
        values = golomb(reader.bits(), sum(r["levels"] for r in narrow), parameters & 15)
        for record in narrow:
            own, values = values[: record["levels"]], values[record["levels"] :]
            ordinals = itertools.accumulate([unfold(own[0]), *(gap + 1 for gap in own[1:])])
            record["values"] = []
            for ordinal in (o << (parameters >> 4) for o in ordinals):
                half = abs(ordinal) | (0x8000 if ordinal < 0 else 0)
                record["values"] += struct.unpack("<e", struct.pack("<H", half))
    for record in quantized:
        if record["wide"]:
            record["values"] = struct.unpack(
                f"<{record['levels']}f", reader.take(4 * record["levels"])
            )
    for record in quantized:
        payload, shape = reader.take(record["size"]), record["shape"]
        count = math.prod(shape)
        shape = (count,) if relations[records.index(record)] == 2 else shape
        record["indices"] = [0] * count
        if record["levels"] > 1:
            record["indices"] = decode(record["coder"], payload, shape, record["levels"])
    plain = [r for r in records if r["kind"] == 1]
    for storage in dict.fromkeys(r["storage"] for r in plain if 0 not in r["shape"]):
        _, entry, word = STORAGES[storage]
        group = [r for r in plain if r["storage"] == storage]
        counts = [math.prod(r["shape"]) * entry // word for r in group]
        group, counts = zip(*[(r, c) for r, c in zip(group, counts, strict=True) if c], strict=True)
        if storage == 20:
            words = read_steps(reader, counts)
        else:
            words = read_block(reader, sum(counts), word)
        for record, count in zip(group, counts, strict=True):
            record["words"] = words[:count]
            words = words[count:]
    for record in plain:
        if 0 in record["shape"]:
            record["words"] = ()
    assert reader.at == len(reader.data)


def cosines(extent):
    """The table of the transform, in units of 2^-30, from cosines of 50 digits."""
    with localcontext() as context:
        context.prec = 50
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582")
        table = []
        for k, n in itertools.product(range(extent), repeat=2):
            quarters, rest = divmod((2 * n + 1) * k, extent)  # of the angle, in right angles
            term = total = Decimal(1)
            angle = pi * rest / (2 * extent)
            sine = term_of_sine = angle
            for i in range(1, 30):
                term *= -angle * angle / ((2 * i - 1) * 2 * i)
                total += term
                term_of_sine *= -angle * angle / (2 * i * (2 * i + 1))
                sine += term_of_sine
            cosine = (total, -sine, -total, sine)[quarters % 4]
            entry = 2**30 * cosine * (Decimal(2 if k else 1) / extent).sqrt()
            table.append(float(entry.to_integral_value()) / 2**30)
    return table


def back_from_cosines(numbers, kernel):
    """Weights of coefficients: one axis of the kernels after the other."""
    size = math.prod(kernel)
    for axis, extent in enumerate(kernel):
        table, stride = cosines(extent), math.prod(kernel[axis + 1 :])
        turned = list(numbers)
        for place in range(len(numbers)):
            n = place % size // stride % extent
            first = place - n * stride
            total = table[n] * numbers[first]
            for k in range(1, extent):
                total = total + table[k * extent + n] * numbers[first + k * stride]
            turned[place] = total
        numbers = turned
    return numbers


def read_steps(reader, counts):
    bits = reader.bits()
    forms = [next(bits) for _ in counts]
    steps, centres = [0] * len(forms), [0] * len(forms)
    for form in (0, 1):
        chosen = [i for i, other in enumerate(forms) if other == form]
        for numbers in (steps, centres) if chosen else ():
            k = reader.byte()
            changes = map(unfold, golomb(reader.bits(), len(chosen), k))
            for i, number in zip(chosen, itertools.accumulate(changes), strict=True):
                numbers[i] = number
    low, num_levels = reader.varint(), reader.varint() + 1
    payload = reader.take(reader.varint())
    indices = [0] * sum(counts)
    if num_levels > 1:
        indices = decode(2, payload, (sum(counts),), num_levels)
    places, words = iter(indices), []
    for form, step, centre, count in zip(forms, steps, centres, counts, strict=True):
        for number in (centre + next(places) - low for _ in range(count)):
            multiple = struct.pack("<f", number * 2.0**step) if form == 0 else None
            words.append(struct.unpack("<I", multiple)[0] if multiple else number << step)
    return words


def read_block(reader, count, word):
    method = reader.byte()
    if method == 0:
        data = reader.take(count * word)
    elif method == 1:
        planes = []
        for _ in range(word):
            coder = reader.byte()
            size = count if coder == 0 else reader.varint()
            planes.append(decode(coder, reader.take(size), (count,), 256))
        data = bytes(itertools.chain(*zip(*planes, strict=True)))
    else:
        steps = map(unfold, golomb(reader.bits(), count, reader.byte()))
        return [value % 256**word for value in itertools.accumulate(steps)]
    return [int.from_bytes(data[i : i + word], "little") for i in range(0, len(data), word)]


def decode(coder, payload, shape, num_levels):
    count, width = math.prod(shape), 1 if num_levels <= 256 else 2
    if coder == 0:
        bits = Reader(payload).bits()
        return [fixed(bits, (num_levels - 1).bit_length()) for _ in range(count)]
    if coder == 1:
        return decode_tuples(Reader(payload), shape, num_levels)
    if coder in (2, 6, 7):
        return context_reference().decode(payload, shape, num_levels, coder)
    dictionary = min(max(1 << (count * width - 1).bit_length(), 2**12), 2**26)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dictionary}]
    data = {
        3: lambda: lzma.decompress(payload, lzma.FORMAT_RAW, filters=filters),
        4: lambda: bz2.decompress(payload),
        5: lambda: zlib.decompress(payload, -15),
    }[coder]()
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


def context_reference():
    path = Path(__file__).parents[1] / "coding" / "context" / "reference_context.py"
    spec = importlib.util.spec_from_file_location("reference_context", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
