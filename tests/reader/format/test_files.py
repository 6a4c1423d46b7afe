"""Sections that are too large to be held: they are read from the file piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hemp_lightning import HempFileError, load, save
from hemp_reader.bitstream import ByteReader, FileBytes
from hemp_reader.format import files
from hemp_reader.reading import inspect, verify

GOLDEN = sorted((Path(__file__).parents[2] / "data").glob("version*.hemp"))


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_HELD", 5)


def content(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_read_the_same_from_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, seen = load(path), inspect(path)
    monkeypatch.setattr(files, "_HELD", 5)
    read = load(path)
    verify(path)
    assert read.keys() == held.keys()
    for name, tensor in held.items():
        assert tensor.dtype == read[name].dtype
        assert tensor.shape == read[name].shape
        assert content(tensor).equal(content(read[name]))
    assert inspect(path) == seen


@pytest.mark.usefixtures("all_are_large")
def test_every_flip_and_every_cut_is_refused(tmp_path: Path) -> None:
    path, broken = tmp_path / "a.hemp", tmp_path / "b.hemp"
    generator = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(9, 9, generator=generator), "n": torch.arange(40) % 7}
    save(tensors, path, num_levels=5)
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        broken.write_bytes(changed)
        with pytest.raises(HempFileError):
            verify(broken)
    for size in range(len(data)):
        broken.write_bytes(data[:size])
        with pytest.raises(HempFileError):
            verify(broken)


@pytest.mark.usefixtures("all_are_large")
def test_a_large_tensor_of_planes_is_checked_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hemp_reader.format import sections

    path = tmp_path / "a.hemp"
    weights = 1 + torch.rand(1000, generator=torch.Generator().manual_seed(0)) / 1000
    save({"w": weights}, path, tensors=[], float_dtype="float32")
    lengths = []
    read = sections.read_block

    def counted(*arguments, **options):  # type: ignore[no-untyped-def]
        lengths.append(len(words := read(*arguments, **options)))
        return words

    monkeypatch.setattr(sections, "read_block", counted)
    assert load(path)["w"].equal(weights)
    verify(path)
    inspect(path)
    assert lengths == [1000, 0, 0]


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abcdef")
    with path.open("rb", buffering=0) as file:
        reader = ByteReader(FileBytes(file, 1, 5))
        assert reader.take(2, "it") == b"bc"
        path.write_bytes(b"abcd")
        with pytest.raises(HempFileError, match="3 bytes of it") as caught:
            reader.take(3, "it")
    assert "1 bytes to the end" in str(caught.value)
    with pytest.raises(HempFileError, match="2 bytes to the end"):
        ByteReader(b"xyz", 1).take(3, "it")
