"""Draw the rooms of the package and the arrows between them: `python docs/draw_architecture.py`.

The layers are those of the import contract in `pyproject.toml`, which `lint-imports` holds; the
question of each room is the first sentence of its docstring.
"""

from __future__ import annotations

import ast
import html
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).parent / "pictures" / "architecture.svg"
WIDTH, HEIGHT, GAP, MARGIN = 760, 46, 30, 12
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666", "#999999")


def layers() -> list[list[str]]:
    """The rooms of each layer, top first, without the name of the package.

    Example:
        >>> layers()[0], layers()[-1]
        (['cli'], ['hemp_reader'])
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [
        [room.strip().strip("()").removeprefix("hemp_lightning.") for room in row.split("|")]
        for row in rows
    ]


def question(room: str) -> str:
    """The first sentence of a room's docstring."""
    path = ROOT / "hemp_lightning" / room
    if room == "hemp_reader":
        path = ROOT / "reader" / room
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return ""
    line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    return line.split("? ")[0] + "?" if "? " in line else re.split(", |: ", line)[0].rstrip(".")


def drawing() -> str:
    """The picture as SVG."""
    rows = layers()
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="#666"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, row in enumerate(rows):
        top = MARGIN + number * (HEIGHT + GAP)
        wide = (WIDTH - 2 * MARGIN - (len(row) - 1) * MARGIN) / len(row)
        for place, room in enumerate(row):
            left = MARGIN + place * (wide + MARGIN)
            color, middle = COLORS[number % len(COLORS)], left + wide / 2
            lines += [
                f'<rect x="{left:g}" y="{top}" width="{wide:g}" height="{HEIGHT}" rx="6" '
                f'fill="{color}" fill-opacity="0.12" stroke="{color}"/>',
                f'<text x="{middle:g}" y="{top + 20}" text-anchor="middle" font-size="15" '
                f'font-weight="bold" fill="#111">{room}</text>',
                f'<text x="{middle:g}" y="{top + 37}" text-anchor="middle" font-size="12" '
                f'fill="#333">{html.escape(question(room).replace("`", ""))}</text>',
            ]
        if number < len(rows) - 1:
            bottom = top + HEIGHT
            lines.append(
                f'<line x1="{WIDTH / 2:g}" y1="{bottom + 2}" x2="{WIDTH / 2:g}" '
                f'y2="{bottom + GAP - 2}" stroke="#666" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
