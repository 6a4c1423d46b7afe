"""The README is short, its sentences are too, and what it points to is there.

`tests/docs/test_code_blocks.py` runs its code.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MOST_LINES, MOST_WORDS = 150, 30


def prose(text: str) -> str:
    """The text without code, tables, comments and pictures, links as their words."""
    text = re.sub(r"^```.*?^```$", "\n\n", text, flags=re.M | re.S)
    text = re.sub(r"<!--.*?-->|^\|.*$|!\[[^\]]*\]\([^)]*\)", "", text, flags=re.M | re.S)
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)


def sentences(text: str) -> list[str]:
    """Sentences of a text; headings and items of lists are blocks of their own."""
    found = []
    for block in re.split(r"\n\s*\n|\n(?=[-#])", prose(text)):
        words = " ".join(block.split())
        # a full stop after one capital is an initial
        found += re.split(r"(?<=[.!?:])(?<!\b[A-Z]\.)\s+", words)
    return [sentence for sentence in found if sentence]


def anchors(text: str) -> set[str]:
    """What a link behind `#` may name, as GitHub makes it from headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("name", ["install", "quickstart", "test"])
def test_commands_that_ci_calls_are_there(name):
    assert re.search(rf"<!-- {name} -->\n```bash\n(.+)\n```", README.read_text(encoding="utf-8"))


def test_length():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_sentences_are_short():
    found = sentences(README.read_text(encoding="utf-8"))
    assert len(found) > 30
    assert [s for s in found if len(s.split()) > MOST_WORDS] == []


def test_a_long_sentence_is_found():
    long = "word " * MOST_WORDS
    assert [len(s.split()) for s in sentences(f"# A\n\nShort. {long}more. Short.\n")] == [
        2,
        1,
        MOST_WORDS + 1,
        1,
    ]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "FORMAT.md"])
def test_links_resolve(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_markers_of_the_table_of_results():
    text = README.read_text(encoding="utf-8")
    table = text.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    assert table.count("\n| [") >= 5
