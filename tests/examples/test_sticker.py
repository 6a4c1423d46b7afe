"""A network as one QR code, read back by another library's decoder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from hemp_lightning import load

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks" / "results" / "lenet5_mnist" / "model.hemp"


@pytest.fixture(scope="module")
def sticker() -> ModuleType:
    pytest.importorskip("segno")
    pytest.importorskip("zxingcpp")
    spec = importlib.util.spec_from_file_location(
        "sticker", ROOT / "examples" / "qr" / "sticker.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_comes_back_byte_for_byte(sticker, tmp_path):
    code = sticker.write(FILE, tmp_path / "sticker.png")
    assert code.version <= 25
    back = tmp_path / "model.hemp"
    back.write_bytes(sticker.read(tmp_path / "sticker.png"))
    assert back.read_bytes() == FILE.read_bytes()
    assert sum(tensor.numel() for tensor in load(back).values()) == 431_080


def test_a_photo_is_read(sticker, tmp_path):
    """Turned, grey and blurred, as a camera gives it."""
    from PIL import Image, ImageFilter

    sticker.write(FILE, tmp_path / "sticker.png")
    picture = Image.open(tmp_path / "sticker.png").convert("L")
    photo = picture.rotate(7, expand=True, fillcolor=255).point(lambda value: 40 + value * 0.7)
    photo.filter(ImageFilter.GaussianBlur(1)).save(tmp_path / "photo.png")
    assert sticker.read(tmp_path / "photo.png") == FILE.read_bytes()


def test_what_does_not_fit_or_is_no_code_is_refused(sticker, tmp_path):
    from PIL import Image

    large = tmp_path / "large.hemp"
    large.write_bytes(bytes(2954))
    with pytest.raises(ValueError, match=r"at most 2,953 bytes; .* has 2,954"):
        sticker.write(large, tmp_path / "sticker.png")
    Image.new("L", (50, 50)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="found none"):
        sticker.read(tmp_path / "black.png")
