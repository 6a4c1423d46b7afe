"""The page that recognises digits, in a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import torch

from hemp_lightning import load
from tests.chromium import chromium, set_width

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks" / "results" / "lenet5_mnist" / "model.hemp"
# Strokes as corners, in parts of the canvas.
SEVEN = [(0.28, 0.24), (0.5, 0.23), (0.72, 0.22), (0.62, 0.5), (0.5, 0.82)]
ONE = [(0.54, 0.16), (0.52, 0.5), (0.5, 0.84)]
FOUR = [
    [(0.33, 0.2), (0.3, 0.5), (0.68, 0.5)],
    [(0.64, 0.24), (0.64, 0.86)],
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Static files of the repository, which is all that the page needs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(ROOT)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/examples/browser/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from chromium(tmp_path_factory.mktemp("chromium"))


@pytest.fixture(params=[1280, 390])
def opened(request: pytest.FixtureRequest, browser: Any, address: str) -> Any:
    """The page as it opens, at one width of the window."""
    from selenium.webdriver.support.ui import WebDriverWait

    set_width(browser, request.param)
    browser.get(address)
    WebDriverWait(browser, 30).until(
        lambda b: b.find_elements("css selector", "body[data-ready=yes]")
    )
    return browser


def draw(browser: Any, *strokes: list[tuple[float, float]]) -> None:
    """Draw with the mouse, as a visitor does."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    canvas = browser.find_element("id", "drawing")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", canvas)
    actions = ActionBuilder(browser, duration=5)
    mouse = actions.pointer_action

    def go(x: float, y: float) -> None:
        mouse.move_to_location(int(box["x"] + x * box["width"]), int(box["y"] + y * box["height"]))

    for stroke in strokes:
        go(*stroke[0])
        mouse.pointer_down()
        for (x, y), (x2, y2) in pairwise(stroke):
            for part in (0.25, 0.5, 0.75, 1):
                go(x + part * (x2 - x), y + part * (y2 - y))
        mouse.pointer_up()
    actions.perform()


def answer(browser: Any) -> str:
    return browser.find_element("id", "digit").text.strip()


def test_a_drawn_seven_is_recognised(opened: Any) -> None:
    assert answer(opened) == ""
    draw(opened, SEVEN)
    assert answer(opened) == "7"
    best = opened.find_element("css selector", "#bars .best").text.split()
    assert best[0] == "7" and float(best[1]) > 90
    opened.find_element("id", "clear").click()
    assert answer(opened) == ""


@pytest.mark.parametrize("digit, strokes", [("1", [ONE]), ("4", FOUR)])
def test_other_digits_are_recognised(opened: Any, digit: str, strokes: Any) -> None:
    draw(opened, *strokes)
    assert answer(opened) == digit


def test_the_page_says_the_size_of_its_file(opened: Any) -> None:
    size = FILE.stat().st_size
    assert opened.find_element("id", "size").text == f"{size:,} bytes"
    times = int(opened.find_element("id", "times").text.replace(",", ""))
    assert times == round(4 * sum(t.numel() for t in load(FILE).values()) / size)


def test_the_page_fits_its_window_and_loads_nothing_from_elsewhere(opened: Any) -> None:
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.execute_script(script) <= 0
    names = opened.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    hosts = {urlparse(name).netloc for name in names if not name.startswith("data:")}
    assert hosts == {urlparse(opened.current_url).netloc}
    assert any(name.endswith("model.hemp") for name in names)
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_scores_are_those_of_torch(opened: Any) -> None:
    models = pytest.importorskip("hemp_lightning.suite.models")
    model = models.build("lenet5")
    model.load_state_dict(load(FILE))
    images = torch.rand(5, 784, generator=torch.Generator().manual_seed(7)).round(decimals=3)
    with torch.no_grad():
        expected = model(((images - 0.1307) / 0.3081).view(-1, 1, 28, 28))
    found = opened.execute_async_script(
        """
        const [images, done] = arguments;
        (async () => {
          const { load } = await import("../../reader/js/hemp.js");
          const { network } = await import("./lenet5.js");
          const file = await (await fetch(document.getElementById("file").href)).arrayBuffer();
          const run = network(load(file));
          return images.map((image) => [...run(Float32Array.from(image))]);
        })().then(done);
        """,
        images.tolist(),
    )
    assert torch.allclose(torch.tensor(found), expected, atol=1e-3)
