"""The report: what it gathers, the Pareto front against brute force, and the page in a browser."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from hemp_lightning.suite.report import main, write_report
from hemp_lightning.suite.runs import (
    float_networks,
    front_of,
    over_seeds,
    pareto_front,
    read_runs,
    smallest,
)


def result(**changes: object) -> dict[str, Any]:
    plain = {
        "model": "lenet5",
        "dataset": "mnist",
        "method": "hemp",
        "pruning": "none",
        "coder": "context",
        "order": 2,
        "num_levels": 7,
        "lambda_entropy": 4.0,
        "seed": 0,
        "float_accuracy": 0.99,
        "accuracy": 0.98,
        "float_bytes": 1_724_320,
        "file_bytes": 5000,
        "compression_ratio": 344.864,
        "bits_per_weight": 0.0928,
        "fit_seconds": 10.0,
    }
    return {**plain, **changes}


def measured(**changes: object) -> dict[str, Any]:
    """A run as `read_runs` gives it."""
    run = result(**changes)
    named = {n.replace("accuracy", "quality"): v for n, v in run.items() if "accuracy" in n}
    return {"metric": "accuracy", "metric_mode": "max", **named, **run}


def store(root: Path, *results: dict[str, Any]) -> Path:
    for number, entry in enumerate(results):
        folder = root / f"deep/run={number},epochs=9"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(entry))
    return root


def test_pareto_front_by_brute_force() -> None:
    random.seed(0)
    points = [(random.randrange(40), random.randrange(40)) for _ in range(60)]
    front = {points[i] for i in pareto_front(points)}
    expected = {
        p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)
    }
    assert front == expected


def test_seeds_are_joined_and_nothing_else() -> None:
    runs = [
        measured(seed=0, file_bytes=5000, overrides=["epochs=9", "seed=0", "dataset.root=A"]),
        measured(seed=1, file_bytes=5200, accuracy=0.99, overrides=["seed=1", "epochs=9"]),
        measured(seed=2, file_bytes=6000, overrides=["epochs=20", "seed=2"]),
        measured(seed=0, lambda_entropy=1.0, file_bytes=9000),
        measured(seed=0, pruning="lobster"),
        measured(seed=0, order=3, file_bytes=7000),
    ]
    groups = {(g.label, len(g.runs), g.mean("file_bytes")): g for g in over_seeds(runs)}
    assert set(groups) == {
        ("HEMP order 2", 2, 5100.0),
        ("HEMP order 2", 1, 6000.0),
        ("HEMP order 2", 1, 9000.0),
        ("HEMP order 2 + LOBSTER", 1, 5000.0),
        ("HEMP order 3", 1, 7000.0),
    }
    pair = groups["HEMP order 2", 2, 5100.0]
    assert pair.spread("file_bytes") == pytest.approx(stdev([5000, 5200]))
    assert pair.mean("quality") == pytest.approx(0.985)
    assert pair.settings == "lambda 4, 7 levels, 9 epochs"


def test_runs_of_other_epochs_are_another_curve_and_of_another_lambda_are_not() -> None:
    def curve(*words: str) -> tuple[str, ...]:
        return over_seeds([measured(overrides=list(words))])[0].curve

    base = curve("epochs=9", "hemp.lambda_entropy=1")
    assert curve("epochs=9", "hemp.lambda_entropy=2", "seed=4") == base
    assert curve("epochs=20", "hemp.lambda_entropy=1") != base
    assert curve("epochs=9", "float_epochs=2", "hemp.lambda_entropy=1") != base


def test_identical_runs_count_once(tmp_path: Path) -> None:
    folder = store(
        tmp_path, result(seed=0), result(seed=0), result(seed=1), result(seed=1, accuracy=0.9)
    )
    assert [run["seed"] for run in read_runs([folder, folder])] == [0, 1, 1]


def test_the_validation_split_chooses() -> None:
    val = {"float_val_accuracy": 0.99}
    groups = over_seeds(
        [
            measured(**val, val_accuracy=0.97, accuracy=0.99, file_bytes=10, lambda_entropy=3.0),
            measured(**val, val_accuracy=0.985, accuracy=0.96, file_bytes=20, lambda_entropy=2.0),
            measured(**val, val_accuracy=0.99, accuracy=0.99, file_bytes=30, lambda_entropy=1.0),
        ]
    )
    assert smallest(groups)["HEMP order 2"].mean("file_bytes") == 20


def test_a_lucky_seed_is_not_the_best() -> None:
    lucky = [measured(seed=s, accuracy=a, file_bytes=10) for s, a in enumerate((0.985, 0.9, 0.9))]
    steady = [measured(seed=s, accuracy=0.982, file_bytes=20, lambda_entropy=1.0) for s in range(3)]
    best = smallest(over_seeds([*lucky, *steady]))["HEMP order 2"]
    assert best.mean("file_bytes") == 20 and len(best.runs) == 3


def test_the_front_is_of_means() -> None:
    runs = [
        *(measured(seed=s, accuracy=a, file_bytes=20) for s, a in enumerate((0.99, 0.91))),
        measured(lambda_entropy=1.0, accuracy=0.96, file_bytes=10),
    ]
    groups = over_seeds(runs)
    assert [groups[i].mean("quality") for i in front_of(groups)] == [pytest.approx(0.96)]


def test_less_of_a_perplexity_is_better() -> None:
    numbers = ((10, 4.0, 3.98), (20, 3.2, 3.19), (30, 3.21, 3.19), (40, 3.0, 3.19))
    runs = [
        {**measured(file_bytes=count, lambda_entropy=float(count)), "quality": value}
        | {"float_quality": start, "metric": "perplexity", "metric_mode": "min"}
        for count, value, start in numbers
    ]
    groups = over_seeds(runs)
    assert [groups[i].mean("file_bytes") for i in front_of(groups)] == [10, 20, 40]
    assert smallest(groups)["HEMP order 2"].mean("file_bytes") == 10
    assert smallest(groups, loss=0.004)["HEMP order 2"].mean("file_bytes") == 20


def test_a_task_of_another_metric_is_reported(tmp_path: Path) -> None:
    values = {"value": 3.25, "float_value": 3.0, "val_value": 3.2, "float_val_value": 3.1}
    other = result(model="gru", dataset="text", accuracy=None, float_accuracy=None) | values
    other |= {"metric": "perplexity", "metric_mode": "min", "epochs": 12, "float_epochs": 2}
    runs = store(tmp_path / "runs", other, result())
    _, table, page = write_report([runs], tmp_path / "report")
    assert "| method | settings | file | perplexity |" in table.read_text()
    assert "10 epochs after 2 in float" in table.read_text() and "| 3.25 | 3 |" in table.read_text()
    assert '<td data-name="perplexity" data-value="3.25">3.25</td>' in page.read_text()


def test_unlike_float_networks_are_not_averaged() -> None:
    runs = [
        *(measured(seed=s, float_accuracy=0.90, overrides=["float_epochs=2"]) for s in range(2)),
        *(measured(seed=s, float_accuracy=0.94, overrides=["float_epochs=8"]) for s in range(2)),
        measured(seed=2, float_accuracy=0.97, overrides=["float_epochs=8"]),
    ]
    networks = float_networks(over_seeds(runs))
    assert {name: round(accuracy, 4) for name, (accuracy, _) in networks.items()} == {
        "2 float epochs": 0.90,
        "8 float epochs": 0.95,
    }


def test_report_files(tmp_path: Path) -> None:
    runs = store(
        tmp_path / "runs",
        result(),
        result(seed=1, file_bytes=5200),
        result(method="lsq", order=None, lambda_entropy=None, file_bytes=20_000),
        result(model="resnet20", dataset="cifar10"),
    )
    files = write_report([runs], tmp_path / "report")
    assert [file.name for file in files] == ["results.csv", "results.md", "report.html"]
    with files[0].open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file_bytes"] for row in rows] == ["5000", "5200", "20000", "5000"]
    table = files[1].read_text()
    assert "| 5,100 ± 141 B | 98.00 ± 0.00 % |" in table and "| 20,000 B |" in table
    assert "## lenet5 on mnist" in table and "## resnet20 on cifar10" in table


def test_one_ruined_run_does_not_flatten_the_picture(tmp_path: Path) -> None:
    good = [result(lambda_entropy=v, accuracy=0.98 - v / 1000) for v in (1.0, 2.0, 3.0)]
    runs = store(tmp_path / "runs", *good, result(lambda_entropy=9.0, accuracy=0.1))
    page = write_report([runs], tmp_path / "report")[-1].read_text()
    chart = json.loads(page.split('type="application/json" id="s0-0">')[1].split("</script>")[0])
    low, high = chart["layout"]["yaxis"]["range"]
    assert 97 < low < 97.7 and 99 < high < 100
    assert "points below this view: 1" in page


def test_words_of_runs_cannot_end_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    runs = store(tmp_path / "runs", result(overrides=[f"model.note={evil}"]))
    page = write_report([runs], tmp_path / "report")[-1].read_text()
    assert evil not in page


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = store(tmp_path / "runs", result())
    assert main([str(runs), "-o", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        read_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="found none at"):
        read_runs([tmp_path / "no"])


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
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync"
    flags += " disable-background-networking disable-component-update"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chromium
    chromium.quit()


@pytest.fixture(params=[1280, 390])
def opened(request: pytest.FixtureRequest, browser: Any, page: Path) -> Any:
    """The page as it opens, at one width of the window."""
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
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
