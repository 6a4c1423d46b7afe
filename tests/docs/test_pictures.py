"""Pictures of the documentation are those that their programs draw."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def program(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_room_is_in_the_drawing():
    architecture = program("draw_architecture")
    drawn = architecture.PICTURE.read_text(encoding="utf-8")
    assert drawn == architecture.drawing(), "run `python docs/draw_architecture.py`"
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = [room for row in architecture.layers() for room in row]
    assert len(rooms) > 6
    for room in rooms:
        assert f">{room}</text>" in drawn
        assert room in ("cli", "errors", "version") or f"`{room}/`" in page, room


def test_pictures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    program("draw_pictures").main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    kept = {path.name for path in (DOCS / "pictures").glob("*.svg")}
    assert drawn | {"architecture.svg"} == kept
    # the figures in the pictures are those of today's package
    for name in ("pull.svg", "levels.svg", "pairs.svg"):
        words = [
            sorted(word for word in path.read_text(encoding="utf-8").split("<") if " bits" in word)
            for path in (tmp_path / name, DOCS / "pictures" / name)
        ]
        assert words[0] and [w.split(">")[1] for w in words[0]] == [
            w.split(">")[1] for w in words[1]
        ]
