"""Broken and hostile `.hemp` files: told as `HempFileError`, with the place, by every reader."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import torch

import hemp_lightning
import hemp_reader
from hemp_lightning import HempFileError, load, save
from hemp_reader.format import files
from hemp_reader.reading import inspect, verify


def rewritten(data, change, section=None):
    """The file with a changed directory, its checksums right again."""
    (size,) = struct.unpack("<I", data[6:10])
    directory = change(data[14 : 14 + size])
    head = data[:6] + struct.pack("<I", len(directory))
    checksum = struct.pack("<I", zlib.crc32(directory, zlib.crc32(head)))
    rest = data[14 + size :]
    if section is not None:
        rest = section + struct.pack("<I", zlib.crc32(section))
    return head + checksum + directory + rest


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.hemp"
    state = {"w": torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]), "b": torch.ones(2)}
    state["again"] = state["b"]
    save(state, path, num_levels=16, coder="raw", float_dtype="steps")
    return path, path.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "offset", "message"),
    [
        (lambda d: b"", 0, "expected a header of 14 bytes, found a file of 0"),
        (lambda d: b"PK\3\4" + d[4:], 0, "expected a .hemp file, which begins with b'HEMP', found"),
        (
            lambda d: d[:4] + b"\5" + d[5:],
            4,
            "format version 1, 2, 3 or 4, found version 5",
        ),
        (lambda d: d[:5] + b"\2" + d[6:], 5, "expected flags 0 or 1, found 2"),
        (lambda d: d[:6] + b"\xff" * 4 + d[10:], 6, "found 4294967295 bytes"),
        (lambda d: d[:10] + b"abcd" + d[14:], 10, "of header and directory before it"),
        (lambda d: d[:-1] + b"\0", None, "expected the checksum .* of the section before it"),
        (lambda d: d[:-1], None, "expected a file of .* bytes, found"),
        (lambda d: d + b"\0", None, "expected a file of .* bytes, found"),
        (lambda d: rewritten(d, lambda x: x[:-1] + b"\x01"), None, "expected a file of"),
        (lambda d: rewritten(d, lambda x: x + b"\0"), None, "expected the end of the directory"),
        (lambda d: rewritten(d, lambda x: b"\x04" + x[1:]), None, "of a name, found 0 bytes"),
        (lambda d: rewritten(d, lambda x: b""), 14, "1 bytes of number of tensors"),
        (lambda d: rewritten(d, lambda x: b"\x7f"), 14, "tensors of at most 1, found 127"),
    ],
)
def test_broken_files(small, spoil, offset, message):
    path, data = small
    path.write_bytes(spoil(data))
    with pytest.raises(HempFileError, match=message) as error:
        load(path)
    assert error.value.path == str(path)
    assert str(error.value).startswith(f"{path}: byte {error.value.offset}: expected ")
    assert offset is None or error.value.offset == offset
    for other in (verify, inspect):
        with pytest.raises(HempFileError):
            other(path)


# A whole record is "0177 48 0203 03 00 02": name w; quantized, two axes, opens a section; 2x3;
# three levels, coder raw, two bytes.
@pytest.mark.parametrize(
    ("records", "message"),
    [
        ("1077 48 0203 03 00 02", "byte 15: expected at most 0 bytes shared with the name"),
        ("0177 4b 0203 03 00 02", "byte 20: expected the number of a transform, 1, found 3"),
        ("0177 4f 010103 01 01", "byte 4: expected format version 3, found version [12]"),
        ("0177 c9 0203", "byte 17: expected a tag of this version, found 0xc9"),
        ("0177 08 0203 03 00 02", "byte 17: expected a first tensor that opens a section"),
        ("0177 68 63 0203 03 00 02", "byte 18: expected the number of another storage, found 99"),
        ("0177 68 00 0203 03 00 02", "byte 18: expected the number of another storage, found 0"),
        ("0177 68 01 0203 03 00 02", "expected a floating dtype to quantize, found float32 as"),
        ("0177 68 08 0203 03 00 02", "expected a floating dtype to quantize, found int64"),
        ("0177 48 0003 03 00 02", "expected a quantized tensor with an entry, found shape"),
        ("0177 48 0203 07 00 02", "number of levels of at most 6, found 7"),
        ("0177 48 0203 00 00 02", "expected at least one level, found 0"),
        ("0177 48 0203 03 63 02", "byte 27: expected a coder's number, one of 0 .*, found 99"),
        ("0177 48 0203 03 00 7f", "expected 127 bytes of coded indices"),
        ("0177 48 ffffff7fffffff7f 03 00 02", "expected at most 68719476735 entries, found shape"),
        ("0177 5c 1a", "byte 18: expected number of axes of at most 25, found 26"),
        ("0177 02 00", "byte 17: expected an alias of an earlier tensor, found of number 0"),
        ("0177 48 0203 03 00 80", "expected size of a payload|bytes of size of a section"),
    ],
)
def test_broken_records(small, records, message):
    path, data = small
    section = bytes.fromhex("a0f1018400")  # levels 0, 1, 2; indices 0, 1, 0, 2, 0, 0
    wanted = bytes.fromhex(records)
    path.write_bytes(rewritten(data, lambda _: b"\x01" + wanted + bytes([len(section)]), section))
    with pytest.raises(HempFileError, match=message):
        verify(path)


# A tensor of shape (1, 1, 3) whose kernel was transformed: three levels, coder raw, one byte.
TRANSFORMED = "0177 4f 010103 01 03 00 01"


def version_3(data, directory, section):
    """A file of version 3 with that directory and section."""
    return rewritten(data[:4] + b"\3" + data[5:], lambda _: bytes.fromhex(directory), section)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("0177 4f 010103 00 03 00 01 04 00", "byte 21: expected the number of a transform, 1, fou"),
        ("0177 4f 010103 02 03 00 01 04 00", "byte 21: expected the number of a transform, 1, fou"),
        ("0177 4b 0103 01 03 00 01 04 00", "byte 20: expected a tensor with kernels to transform"),
        ("0177 4f 010101 01 01 00", "expected a tensor with kernels to transform, found shape"),
        (TRANSFORMED + "04", "bytes of number of metadata"),
        (TRANSFORMED + "04 8120", "number of metadata of at most 4096, found 4097"),
        (TRANSFORMED + "04 01 01", "expected 1 bytes of the name of metadata"),
        (TRANSFORMED + "04 01 0161 02 62", "expected 2 bytes of metadata"),
        (TRANSFORMED + "04 01 0161 02 62ff", "byte 31: expected metadata in UTF-8, found other"),
        (TRANSFORMED + "04 02 0161 00 0161 00", "byte 30: expected a new name of metadata, found"),
        (TRANSFORMED + "04 01 818040 61", "size of the name of metadata of at most 1048576"),
        (TRANSFORMED + "04 00 00", "expected the end of the directory"),
    ],
)
def test_broken_records_of_version_3(small, rest, message):
    path, data = small
    section = bytes.fromhex("a0f10124")  # levels 0, 1, 2; indices 0, 1, 2
    path.write_bytes(version_3(data, "01" + TRANSFORMED + "04 01 0161 0162", section))
    assert load(path)["w"].shape == (1, 1, 3)
    path.write_bytes(version_3(data, "01" + rest, section))
    with pytest.raises(HempFileError, match=message):
        verify(path)


@pytest.mark.parametrize("level", [2.0**97, -(2.0**97)])
def test_levels_whose_sums_could_be_infinite_are_not_transformed(small, level):
    path, data = small
    for levels, fails in [((-1.0, 2.0**96), False), (sorted([1.0, level]), True)]:
        section = struct.pack("<2f", *levels) + b"\2"
        path.write_bytes(version_3(data, "01 0177 cf 010103 01 02 00 01 09 00", section))
        if fails:
            with pytest.raises(HempFileError, match=r"levels to transform up to 7.9.*e\+28"):
                load(path)
        else:
            assert torch.isfinite(load(path)["w"]).all()


def test_duplicate_names_and_aliases_of_aliases(small):
    path, data = small
    plain = bytes.fromhex("0177 45 01")
    for count, more, message in [
        (2, "0177 05 01", "expected a new name, found 'w'"),
        (3, "0161 02 00 0162 02 01", "expected an alias of an earlier tensor, found of number 1"),
    ]:
        directory = bytes([count]) + plain + bytes.fromhex(more) + b"\x01"
        path.write_bytes(rewritten(data, lambda _, directory=directory: directory))
        with pytest.raises(HempFileError, match=message):
            load(path)


def test_directories_cannot_explode(small, tmp_path):
    path, data = small
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = bomb.compress(bytes(2**20)) + bomb.flush()
    data = data[:5] + b"\1" + data[6:]
    for stored, message in [
        (b"\x80\x80\x40" + body, "size of the directory of at most"),
        (b"\x05" + body, "expected a deflated directory of 5 bytes, found another"),
        (b"\x05\xff\xff\xff", "byte 15: expected a deflated directory, found"),
    ]:
        path.write_bytes(rewritten(data, lambda _, stored=stored: stored))
        with pytest.raises(HempFileError, match=message):
            load(path)


def test_a_small_file_cannot_declare_much(tmp_path):
    path = tmp_path / "zeros.hemp"
    state = {"zeros": torch.zeros(1).expand(3 * 2**25)}  # 384 MiB
    summary = save({"zeros": torch.zeros(8, 8)}, path)
    assert load(path, max_bytes=256)["zeros"].shape == (8, 8)
    with pytest.raises(HempFileError, match="of at most `max_bytes`=255 bytes, found 256 bytes"):
        load(path, max_bytes=255)
    data = path.read_bytes()
    assert data.count(b"\x08\x08") == 1 and summary.file_bytes < 40
    huge = b"\x80\x80\x04" * 2  # 2^16 x 2^16: 16 GiB
    path.write_bytes(rewritten(data, lambda d: d.replace(b"\x08\x08", huge)))
    for read in (load, verify, inspect):
        with pytest.raises(HempFileError, match="found 17179869184 bytes"):
            read(path)
    assert state["zeros"].numel() * 4 > files.default_max_bytes(100)


def test_reading_runs_no_code_of_the_file():
    package = Path(hemp_lightning.__file__).parent
    sources = [package / "file" / "load.py"]
    for folder in (package / "file" / "format", package / "coding", package / "ground"):
        sources += folder.glob("**/*.py")
    sources += Path(hemp_reader.__file__).parent.glob("**/*.py")
    assert len(sources) > 50
    for source in sources:
        text = source.read_text().replace("allow_pickle=False", "").replace(".eval()", "")
        for forbidden in ("pickle", "torch.load", "eval(", "exec("):
            assert forbidden not in text, source
