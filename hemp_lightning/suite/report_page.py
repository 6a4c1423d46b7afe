"""The page of a report: one HTML file with charts and tables, which needs no network."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from hemp_lightning.suite.runs import (
    Group,
    file_text,
    float_networks,
    front_of,
    label_of,
    quality_text,
    smallest,
)

# Okabe and Ito, told apart by people who see fewer colours.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star")
MOST_CURVES = 8  # in the picture of layers
MOST_LOSS = 5.0  # points of accuracy that the picture of rate and accuracy shows at first
MOST_LETTERS = 40  # of a name in a legend
COLUMNS = {  # heading, kind of the values, explanation
    "method": ("text", ""),
    "settings": ("text", "what was set on the command line"),
    "file": ("number", "bytes of the whole file: mean and standard deviation over seeds"),
    "ratio": ("number", "float32 bytes over file bytes"),
    "quality": ("number", "of the network decoded from the file, on the test split"),
    "at the start": ("number", "the same of the network with which the method began"),
    "bits/weight": ("number", "bits of the whole file per weight"),
    "training": ("number", "mean of all seeds; the first job of a sweep also compiles its loops"),
    "seeds": ("number", "runs that differ in the seed alone"),
}


def page(pairs: Mapping[str, Sequence[Group]], output: Path) -> str:
    """The whole page.

    Args:
        pairs: Groups of runs by their title, such as `lenet5 on mnist`.
        output: The folder of the page; links to run folders are relative to it.

    Returns:
        HTML with style, program, charts and the chart library inside it.
    """
    assets = files("hemp_lightning.suite") / "page"
    style = (assets / "report.css").read_text()
    program = (assets / "report.js").read_text()
    count = sum(len(group.runs) for groups in pairs.values() for group in groups)
    links = " ".join(
        f'<a href="#s{number}">{html.escape(title)}</a>' for number, title in enumerate(pairs)
    )
    sections = "".join(
        section(f"s{number}", title, groups, output)
        for number, (title, groups) in enumerate(pairs.items())
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hemp report</title><link rel="icon" href="data:,">
<style>{style}</style><script>{get_plotlyjs()}</script></head>
<body><header><h1>Size and accuracy of {count} different runs</h1><nav>{links}</nav>
<div class="tools"><label>Filter <input id="filter" type="search"
 placeholder="such as: resnet20, lambda 2"></label>
<label><input id="front" type="checkbox"> Pareto front alone</label></div></header>
<main>{sections}</main><script>{program}</script></body></html>
"""


def section(name: str, title: str, groups: Sequence[Group], output: Path) -> str:
    """Charts and table of one model and dataset."""
    best = smallest(groups)
    layers = layers_chart(best)
    charts = [rate_chart(groups), *([layers] if layers else [])]
    boxes = "".join(
        f'<figure><figcaption>{caption}</figcaption><div class="chart" data-chart="{name}-{i}">'
        f'</div><script type="application/json" id="{name}-{i}">{_json(chart)}</script></figure>'
        for i, (caption, chart) in enumerate(charts)
    )
    return (
        f'<section id="{name}"><h2>{html.escape(title)}</h2>{boxes}'
        f"{table(groups, {id(group) for group in best.values()}, output)}</section>"
    )


def _json(value: Any) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(value).replace("<", "\\u003c")


def size_text(count: float) -> str:
    """A size as people say it, on an axis.

    Example:
        >>> size_text(500), size_text(2_000), size_text(1_500_000)
        ('500 B', '2 kB', '1.5 MB')
    """
    for unit, name in ((1_000_000, "MB"), (1_000, "kB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g} B"


def hover(group: Group, on_front: bool) -> str:
    """What the pointer says about a point: the method, its settings, its figures."""
    lines = [f"<b>{html.escape(group.label)}</b>"]
    lines += [html.escape(word) for word in group.settings.split(", ")]
    lines += [
        f"{file_text(group)}, {quality_text(group)}",
        f"seeds {', '.join(str(run['seed']) for run in group.runs)}",
    ]
    lines += ["on the Pareto front"] if on_front else []
    return "<br>".join(lines)


def rate_chart(groups: Sequence[Group]) -> tuple[str, dict[str, Any]]:
    """Bytes on a log axis against accuracy: a line a curve, the Pareto front ringed.

    A line joins the means of groups that differ in the strength of the method alone.

    Returns:
        The caption, and the chart as plotly has it: `data` and `layout`.
    """
    front = front_of(groups)
    scale = 100 if groups[0].metric == "accuracy" else 1
    unit = " %" if groups[0].metric == "accuracy" else ""
    on_front = {id(groups[index]) for index in front}
    labels = sorted({group.label for group in groups})
    curves: dict[tuple[str, ...], list[Group]] = {}
    for group in sorted(groups, key=lambda group: group.mean("file_bytes")):
        curves.setdefault(group.curve, []).append(group)
    names = curve_names(list(curves))
    traces: list[dict[str, Any]] = []
    for number, (key, curve) in enumerate(curves.items()):
        color = COLORS[labels.index(curve[0].label) % len(COLORS)]
        traces.append(
            {
                "name": names[key],
                "mode": "lines+markers",
                "x": [group.mean("file_bytes") for group in curve],
                "y": [scale * group.mean("quality") for group in curve],
                "error_x": _bars([group.spread("file_bytes") for group in curve]),
                "error_y": _bars([scale * group.spread("quality") for group in curve]),
                "text": [hover(group, id(group) in on_front) for group in curve],
                "hoverinfo": "text",
                "line": {"color": color, "width": 1.5},
                "marker": {"size": 8, "symbol": SYMBOLS[number % len(SYMBOLS)]},
            }
        )
    traces.append(
        {
            "name": "Pareto front",
            "mode": "markers",
            "x": [groups[index].mean("file_bytes") for index in front],
            "y": [scale * groups[index].mean("quality") for index in front],
            "hoverinfo": "skip",
            "marker": {"size": 16, "symbol": "circle-open", "color": "#222", "line": {"width": 2}},
        }
    )
    networks = float_networks(groups)
    traces.append(
        {
            "name": "float32, when the method starts",
            "mode": "markers",
            "x": [count for _, count in networks.values()],
            "y": [scale * value for value, _ in networks.values()],
            "text": [
                f"<b>float network</b><br>{html.escape(words)}<br>{scale * value:.4g}{unit}"
                for words, (value, _) in networks.items()
            ],
            "hoverinfo": "text",
            "marker": {"size": 10, "symbol": "diamond-open", "color": "#555"},
        }
    )
    layout = _layout([x for trace in traces for x in trace["x"]])
    layout["yaxis"] |= {"title": {"text": f"test {groups[0].metric}", "standoff": 8}}
    layout["yaxis"] |= {"ticksuffix": unit}
    caption = "A point is the mean over seeds; a line joins runs that differ in strength alone"
    if groups[0].metric == "accuracy":
        caption += _hide_ruined(layout, traces, MOST_LOSS)
    elif not groups[0].more_is_better:
        layout["yaxis"]["autorange"] = "reversed"
        caption += "; less is better and stands higher"
    return caption, {"data": traces, "layout": layout}


def _hide_ruined(layout: dict[str, Any], traces: Sequence[dict[str, Any]], most: float) -> str:
    """Start the axis at the worst point within `most` of the best; words on what lies below."""
    values = sorted(y for trace in traces if "error_y" in trace for y in trace["y"])
    top = max(y for trace in traces for y in trace["y"])
    below = sum(value < top - most for value in values)
    if not 0 < below < len(values) / 2:
        return ""
    margin = 0.06 * (top - values[below])
    layout["yaxis"]["range"] = [values[below] - margin, top + margin]
    return f"; points below this view: {below}, a double click shows them"


def within(group: Group) -> str:
    """What `smallest` looks for, in words."""
    return f"smallest within 1 {'point' if group.metric == 'accuracy' else '%'}"


def curve_names(curves: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Names for curves: the method, and the words that other curves of the method do not share.

    Example:
        >>> curve_names([("LSQ", "context", "epochs=9"), ("LSQ", "context", "epochs=40")])
        {('LSQ', 'context', 'epochs=9'): 'LSQ, epochs=9',
         ('LSQ', 'context', 'epochs=40'): 'LSQ, epochs=40'}
    """
    names = {}
    for curve in curves:
        same = [set(other[1:]) for other in curves if other[0] == curve[0]]
        own = [word for word in curve[1:] if word not in set.intersection(*same)]
        name = ", ".join([curve[0], *own])
        names[curve] = html.escape(name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}…")
    return names


def _bars(spreads: list[float]) -> dict[str, Any]:
    return {"type": "data", "array": spreads, "visible": any(spreads), "thickness": 1}


def _layout(counts: Sequence[float]) -> dict[str, Any]:
    """Axes of the chart of rate and accuracy."""
    powers = range(len(str(int(min(counts)))) - 1, len(str(int(max(counts)))) + 1)
    ticks = [10**power for power in powers]
    if max(counts) / min(counts) < 300:
        ticks = [factor * tick for tick in ticks for factor in (1, 2, 5)]
    return {
        "height": 460,
        "margin": {"l": 70, "r": 10, "t": 30, "b": 50},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.03, "yanchor": "bottom"},
        "xaxis": {
            "type": "log",
            "title": {"text": "size of the whole file"},
            "tickvals": ticks,
            "ticktext": [size_text(tick) for tick in ticks],
        },
        "yaxis": {"automargin": True},
    }


def layers_chart(best: Mapping[str, Group]) -> tuple[str, dict[str, Any]] | None:
    """Bits per weight of each layer, of the smallest files; None where no run tells its tensors."""
    traces: list[dict[str, Any]] = []
    most = 0
    for number, (label, group) in enumerate(list(best.items())[:MOST_CURVES]):
        median = sorted(group.runs, key=lambda run: run["file_bytes"])[len(group.runs) // 2]
        # one value a channel or less is no layer: norms, biases, counters
        layers = [t for t in median.get("tensors") or () if t["name"].endswith("weight")]
        if not layers:
            continue
        most = max(most, len(layers))
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label,
                "y": [layer["name"].removesuffix(".weight") for layer in layers],
                "x": [layer["bits_per_weight"] for layer in layers],
                "hovertemplate": f"%{{y}}: %{{x:.3f}} bits per weight<br>{html.escape(label)}",
                "marker": {"color": COLORS[number % len(COLORS)]},
            }
        )
    if not traces:
        return None
    layout = {
        "height": 150 + most * (12 + 5 * len(traces)),
        "margin": {"l": 10, "r": 10, "t": 30, "b": 50},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "xaxis": {"title": {"text": "bits per weight"}},
        "yaxis": {"automargin": True, "autorange": "reversed"},
    }
    caption = f"Bits of each layer of each method's file: {within(next(iter(best.values())))}"
    return caption, {"data": traces, "layout": layout}


def table(groups: Sequence[Group], best: set[int], output: Path) -> str:
    """A row a group, which opens to a row a run."""
    on_front = {id(groups[index]) for index in front_of(groups)}
    names = {"quality": html.escape(groups[0].metric)}
    heading = "".join(
        f'<th title="{html.escape(words)}"><button type="button" data-kind="{kind}">'
        f"{names.get(name, name)}</button></th>"
        for name, (kind, words) in COLUMNS.items()
    )
    body = "".join(
        rows(group, id(group) in on_front, id(group) in best, output) for group in groups
    )
    return f"<table><thead><tr>{heading}</tr></thead>{body}</table>"


def rows(group: Group, on_front: bool, is_best: bool, output: Path) -> str:
    """The body of one group: its row, and below it the hidden rows of its runs."""
    badges = '<span class="badge front">Pareto front</span>' * on_front
    badges += f'<span class="badge">{within(group)}</span>' if is_best else ""
    name = f'<button type="button" class="open" aria-expanded="false">{html.escape(group.label)}'
    start = quality_text(group, "float_quality")
    names = {"quality": html.escape(group.metric)}
    cells = [
        (group.label, f"{name}</button>{badges}"),
        (group.settings, html.escape(group.settings) or "as configured"),
        (group.mean("file_bytes"), file_text(group)),
        (group.mean("compression_ratio"), f"{group.mean('compression_ratio'):,.4g} &times;"),
        (group.mean("quality"), quality_text(group)),
        (group.mean("float_quality"), start),
        (group.mean("bits_per_weight"), f"{group.mean('bits_per_weight'):.4g}"),
        (group.mean("fit_seconds"), time_text(group.mean("fit_seconds"))),
        (len(group.runs), str(len(group.runs))),
    ]
    words = " ".join([group.label, group.settings, *(f"seed {run['seed']}" for run in group.runs)])
    runs = "".join(_run_row(replace(group, runs=(run,)), output) for run in group.runs)
    return (
        f'<tbody data-words="{html.escape(words.lower())}" data-front="{int(on_front)}"><tr>'
        + "".join(
            f'<td data-name="{names.get(column, column)}" data-value="{html.escape(str(value))}">'
            f"{text}</td>"
            for column, (value, text) in zip(COLUMNS, cells, strict=True)
        )
        + f"</tr>{runs}</tbody>"
    )


def _run_row(group: Group, output: Path) -> str:
    """One run, with a link to its folder."""
    run = group.runs[0]
    folder = quote(os.path.relpath(run["folder"], output.resolve()).replace(os.sep, "/"))
    name = html.escape(Path(run["folder"]).name)
    cells = {
        "method": f"seed {run['seed']}",
        "settings": f'<a href="{folder}/" title="{html.escape(label_of(run))}">{name}</a>',
        "file": f"{run['file_bytes']:,} B",
        "ratio": f"{run['compression_ratio']:,.4g} &times;",
        "quality": quality_text(group),
        "at the start": quality_text(group, "float_quality"),
        "bits/weight": f"{run['bits_per_weight']:.4g}",
        "training": time_text(run["fit_seconds"]),
        "seeds": "",
    }
    names = {"settings": "folder", "quality": html.escape(group.metric)}
    inside = "".join(
        f'<td data-name="{names.get(column, column)}">{text}</td>' for column, text in cells.items()
    )
    return f'<tr class="run" hidden>{inside}</tr>'


def time_text(seconds: float) -> str:
    """A duration as people say it.

    Example:
        >>> time_text(9.5), time_text(1516), time_text(9000)
        ('9.5 s', '25 min', '2.5 h')
    """
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.3g} s"
