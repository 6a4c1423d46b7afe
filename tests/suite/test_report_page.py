"""The page of a report, in a browser."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from hemp_lightning.suite.report import write_report
from tests.chromium import chromium, set_width
from tests.suite.test_report import result, store


def sixty_runs() -> list[dict[str, Any]]:
    """Three models, six settings, three seeds; two runs of each model twice."""
    random.seed(4)
    recipes: list[dict[str, Any]] = [
        *({"lambda_entropy": value, "overrides": ["epochs=9"]} for value in (1.0, 2.0, 4.0)),
        {"lambda_entropy": 2.0, "overrides": ["epochs=40"]},
        {"method": "lsq", "overrides": ["quantization=lsq", "quantization.bits=2"]},
        {"method": "nncodec", "overrides": ["quantization=nncodec", "quantization.qp=-32"]},
    ]
    runs = []
    for model, size in (("lenet5", 1_724_320), ("resnet20", 1_084_468), ("vgg11_bn", 38_000_000)):
        same = []
        for number, recipe in enumerate(recipes):
            if recipe.get("method"):
                recipe = {**recipe, "order": None, "lambda_entropy": None, "num_levels": None}
            for seed in range(3):
                count = int(size * random.uniform(0.9, 1.1) / (20, 40, 90, 60, 15, 10)[number])
                numbers = {
                    "file_bytes": count,
                    "accuracy": round(
                        random.gauss((0.97, 0.96, 0.94, 0.965, 0.95, 0.94)[number], 0.002), 4
                    ),
                    "float_accuracy": round(0.975 + 0.001 * seed, 4),
                    "float_bytes": size,
                    "compression_ratio": size / count,
                    "bits_per_weight": 32 * count / size,
                    "tensors": [
                        {
                            "name": f"layer{i}.conv.weight",
                            "bits_per_weight": 32 * count / size * 0.8**i,
                        }
                        for i in range(6)
                    ],
                }
                words = [*recipe["overrides"], f"seed={seed}", f"model={model}"]
                same.append(
                    result(**{**recipe, **numbers}, model=model, seed=seed) | {"overrides": words}
                )
        runs += [*same, same[0], same[4]]
    return runs


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    runs = sixty_runs()
    assert len(runs) == 60
    store(root / "runs", *runs)
    return write_report([root / "runs"], root / "report")[-1]


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium on the page."""
    yield from chromium(tmp_path_factory.mktemp("chromium"))


@pytest.fixture(params=[1280, 390])
def opened(request: pytest.FixtureRequest, browser: Any, page: Path) -> Any:
    """The page as it opens, at one width of the window."""
    set_width(browser, request.param)
    browser.get(page.as_uri())
    assert browser.execute_script("return innerWidth") == request.param
    return browser


def bodies(browser: Any) -> list[Any]:
    """The rows that are shown."""
    return [b for b in browser.find_elements("css selector", "tbody") if b.is_displayed()]


def test_the_page_fits_its_window(opened: Any) -> None:
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.execute_script(script) <= 0
    for button in opened.find_elements("css selector", ".open"):
        opened.execute_script("arguments[0].click()", button)
    assert opened.execute_script(script) <= 0
    cells = opened.find_elements("css selector", "td")
    width = opened.execute_script("return document.documentElement.clientWidth")
    edges = opened.execute_script(
        "return [...document.querySelectorAll('td,.chart,th')].map("
        "e => e.getBoundingClientRect().right)"
    )
    assert len(cells) > 54 * 9 and max(edges) <= width


def test_the_page_needs_no_network_and_no_other_file(opened: Any) -> None:
    fetched = opened.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in fetched if not name.startswith(("data:", "blob:"))] == []
    assert opened.find_elements("css selector", "script[src], link[href^=http], img") == []
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_row_is_the_seeds_of_one_recipe_and_opens(opened: Any, page: Path) -> None:
    sections = opened.find_elements("css selector", "section h2")
    assert [h.text for h in sections] == [
        "lenet5 on mnist",
        "resnet20 on mnist",
        "vgg11_bn on mnist",
    ]
    rows = bodies(opened)
    assert len(rows) == 3 * 6
    runs = [r for r in sixty_runs()[:18] if r["method"] == "lsq"]
    row = next(r for r in rows if "LSQ" in r.text)
    sizes = [run["file_bytes"] for run in runs]
    assert f"{mean(sizes):,.0f} ± {stdev(sizes):,.0f} B" in row.text
    assert "seed 1" not in row.text
    button = row.find_element("css selector", ".open")
    opened.execute_script("arguments[0].click()", button)
    assert all(f"seed {seed}" in row.text for seed in range(3))
    for run, link in zip(runs, row.find_elements("css selector", "a"), strict=True):
        folder = Path(unquote(urlparse(link.get_attribute("href")).path))
        assert json.loads((folder / "results.json").read_text())["file_bytes"] == run["file_bytes"]


def test_rows_sort_and_filter(opened: Any) -> None:
    def sizes() -> list[float]:
        cells = opened.find_elements("css selector", "section:first-of-type td[data-name=file]")
        found = [cell.get_attribute("data-value") for cell in cells]
        return [float(value) for value in found if value]

    heading = opened.find_element("css selector", "th:nth-child(3) button")
    before = sizes()
    for expected in (sorted(before), sorted(before, reverse=True)):
        opened.execute_script("arguments[0].click()", heading)
        assert sizes() == expected
    field = opened.find_element("id", "filter")
    field.send_keys("ResNet20, lambda 2")
    assert len(bodies(opened)) == 2
    field.clear()
    field.send_keys("nncodec")
    assert len(bodies(opened)) == 3


def test_the_front_is_marked_as_brute_force_finds_it(opened: Any) -> None:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in sixty_runs()[:18]:
        words = tuple(w for w in run["overrides"] if not w.startswith("seed="))
        groups.setdefault((run["method"], run["lambda_entropy"], words), []).append(run)
    points = [
        (mean(r["file_bytes"] for r in same), mean(r["accuracy"] for r in same))
        for same in groups.values()
    ]
    front = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    opened.execute_script("document.getElementById('front').click()")
    shown = [b for b in bodies(opened) if b.find_elements("xpath", "ancestor::section[@id='s0']")]
    marked = {
        float(b.find_element("css selector", "td[data-name=file]").get_attribute("data-value"))
        for b in shown
    }
    assert sorted(marked) == pytest.approx(sorted(p[0] for p in front))


def test_the_pointer_names_the_run_and_its_settings(opened: Any) -> None:
    box = opened.find_element("css selector", ".chart")
    opened.execute_script("arguments[0].scrollIntoView()", box)
    said = []
    for curve in range(2):
        opened.execute_script(
            f"Plotly.Fx.hover(arguments[0], [{{curveNumber: {curve}, pointNumber: 0}}])", box
        )
        said.append(box.find_element("css selector", ".hovertext").text)
    assert any("HEMP order 2" in words and "epochs" in words for words in said)
    assert all("%" in words and "seeds 0, 1, 2" in words for words in said)


def test_runs_of_other_epochs_are_no_one_line(opened: Any) -> None:
    lengths = opened.execute_script(
        "return document.querySelector('.chart').data.filter("
        "t => t.name.startsWith('HEMP order 2')).map(t => [t.name, t.x.length])"
    )
    assert sorted(lengths) == [["HEMP order 2, epochs=40", 1], ["HEMP order 2, epochs=9", 3]]
