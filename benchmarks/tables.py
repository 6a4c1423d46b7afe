"""Write every table and picture of results from the results files, or check what is committed.

    python benchmarks/tables.py             # writes
    python benchmarks/tables.py --check     # names what differs, and exits with 1

Tables are between `<!-- table NAME -->` and `<!-- /table -->`, README's between `<!-- results -->`
and its end. Pictures carry a digest of what they show, as pixels depend on matplotlib's version.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from headline import digest_of, draw_headline, draw_sweep, picture_data, stored_digest
from language import language_rows
from measured import Group, Network, read_networks, read_sweep

ROOT = Path(__file__).resolve().parents[1]
SWEEP = "sweep_lenet5_mnist"
TABLE = re.compile(r"(<!-- table ([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
SMALL = re.compile(r"(<!-- (results) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)
Picture = tuple[Path, dict[str, Any], Callable[[dict[str, Any], Path], None]]
TERM_HEADINGS = (
    *("network", "without the term", "file:", "decoded:"),
    *("with it", "file:", "decoded:", "times:"),
)
METHODS = {
    "hemp": "HEMP",
    "nncodec": "NNCodec, no training",
    "deep_compression": "Deep Compression",
    "lsq": "LSQ + LZMA",
    "lloyd_max + lobster": "LOBSTER + Lloyd-Max",
    "lloyd_max + magnitude_gradual": "magnitude pruning + Lloyd-Max",
    "hemp + lobster": "HEMP + LOBSTER",
}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; columns of numbers, whose heading ends in `:`, to the right.

    Example:
        >>> print(table(["x", "n:"], [["a", "1"]]), end="")
        | x | n |
        |---|---:|
        | a | 1 |
    """
    right = [heading.endswith(":") for heading in headings]
    lines = ["| " + " | ".join(heading.rstrip(":") for heading in headings) + " |"]
    lines.append("|" + "|".join("---:" if r else "---" for r in right) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(group: Group, number: str = "accuracy") -> str:
    """Mean and standard deviation of an accuracy: `99.06 ± 0.07 %`."""
    spread = group.spread(number)
    plus = "" if spread is None else f" ± {100 * spread:.2f}"
    return f"{100 * group.mean(number):.2f}{plus} %"


def size(group: Group) -> str:
    """Mean and standard deviation of the file: `1,108 ± 14 B`."""
    spread = group.spread("file_bytes")
    return (
        f"{group.mean('file_bytes'):,.0f}" + ("" if spread is None else f" ± {spread:,.0f}") + " B"
    )


def share(group: Group) -> str:
    """The file as a share of the network in float32."""
    return f"{100 * group.mean('file_bytes') / group.mean('float_bytes'):.2f} %"


def recipes(network: Network) -> str:
    """A row a recipe."""
    headings = [
        "recipe",
        "when HEMP starts:",
        "decoded:",
        "file:",
        "of float32:",
        "validation:",
        "seeds:",
    ]
    return table(
        headings,
        (
            [
                group.words,
                percent(group, "float_accuracy"),
                percent(group),
                size(group),
                share(group),
                f"{100 * group.mean('val_accuracy'):.2f} %"
                if "val_accuracy" in group.runs[0]
                else "",
                f"{len(group.runs)}",
            ]
            for group in network.recipes.values()
        ),
    )


def seeds(network: Network) -> str:
    """A row a seed, of every recipe with several."""
    headings = [
        "recipe",
        "seed:",
        "when HEMP starts:",
        "decoded:",
        "file:",
        "ratio:",
        "bits per weight:",
    ]
    return table(
        headings,
        (
            [
                group.words,
                f"{run['seed']}",
                f"{run['float_accuracy']:.2%}".replace("%", " %"),
                f"{run['accuracy']:.2%}".replace("%", " %"),
                f"{run['file_bytes']:,} B",
                f"{run['compression_ratio']:.0f}",
                f"{run['bits_per_weight']:.4f}",
            ]
            for group in network.recipes.values()
            if len(group.runs) > 1
            for run in group.runs
        ),
    )


def nncodec(network: Network) -> str:
    """A row a file of NNCodec, then ours."""
    rows = [
        [
            f"NNCodec, qp {word.removeprefix('quantization.qp=')}, float network of {group.words}",
            f"{run['float_accuracy']:.2%}".replace("%", " %"),
            f"{run['file_bytes']:,} B",
            f"{run['accuracy']:.2%}".replace("%", " %"),
        ]
        for group in network.nncodec
        for run in group.runs
        for word in run["overrides"]
        if word.startswith("quantization.qp=")
    ]
    for key in network.manifest["headline"]:
        ours = network.recipes[key]
        rows.append([f"HEMP, {ours.words}", "", size(ours), percent(ours)])
    return table(["", "its float network:", "file:", "decoded:"], rows)


def term(network: Network) -> str:
    """What the entropy term is worth: pairs of recipes, without it and with it."""
    return table(TERM_HEADINGS, term_rows(network))


def term_rows(network: Network) -> list[list[str]]:
    """A row a pair; `times` is the file without the term over the file with it."""
    rows = []
    for keys in network.manifest.get("term", []):
        without, having = (network.recipes[key] for key in keys)
        times = without.mean("file_bytes") / having.mean("file_bytes")
        rows.append(
            [
                *(network.name, without.words, size(without), percent(without)),
                *(having.words, size(having), percent(having), f"{times:.1f}"),
            ]
        )
    return rows


def published(network: Network) -> str:
    """Published points with their sources, then ours."""
    rows = [
        [point["source"], f"{point['bytes']:,} B", f"{100 * point['accuracy']:.4g} %"]
        for point in network.published
    ]
    for key in network.manifest["headline"]:
        ours = network.recipes[key]
        rows.append([f"this, {ours.words}", size(ours), percent(ours)])
    return table(["source", "file:", "accuracy:"], rows)


def overview(networks: dict[str, Network], link: str, small: bool) -> str:
    """README's table (`small`) or the one of the overview page, which says each recipe."""
    recipe = [] if small else ["recipe"]
    headings = ["network, data", *recipe, "float network:", "decoded:", "file:", "of float32:"]
    rows = []
    for name, network in networks.items():
        for key in network.manifest["headline"][: 1 if small else None]:
            group = network.recipes[key]
            rows.append(
                [
                    f"[{network.name}]({link.format(name)}), {network.manifest['data']}",
                    *([] if small else [group.words]),
                    f"{100 * network.float_accuracy:.2f} % ({network.float_network.words})",
                    percent(group),
                    size(group),
                    share(group),
                    network.nncodec_times if key == "record" else "",
                    *([] if small else [published_points(network) if key == "record" else ""]),
                ]
            )
    headings.append("NNCodec at this accuracy, times:")
    return table(headings if small else [*headings, "published"], rows)


def published_points(network: Network) -> str:
    """`2,840 B at 99 %` and so on."""
    points = [
        f"{p['name']}: {p['bytes']:,} B at {100 * p['accuracy']:.4g} %" for p in network.published
    ]
    return "; ".join(points) or "none with a file"


def method_of(run: dict[str, Any]) -> str:
    """What a run of the sweep is called."""
    name = run["method"] + (f" + {run['pruning']}" if run["pruning"] != "none" else "")
    words = METHODS.get(name, name)
    return words.replace("HEMP", f"HEMP order {run['order']}") if run["order"] else words


def sweep_best(runs: Sequence[dict[str, Any]]) -> str:
    """The smallest file of each method within one point of the float network, on validation."""
    best: dict[str, dict[str, Any]] = {}
    # results.csv has no validation accuracy of the float network: NNCodec's best stands for it
    floating = max(run["val_accuracy"] for run in runs if run["method"] == "nncodec")
    for run in sorted(runs, key=lambda run: run["file_bytes"]):
        if run["val_accuracy"] >= floating - 0.01:
            best.setdefault(method_of(run), run)
    return table(
        ["method", "settings", "file:", "ratio:", "decoded:", "float network:"],
        (
            [
                name,
                settings_of(run),
                f"{run['file_bytes']:,.0f} B",
                f"{run['compression_ratio']:.0f}",
            ]
            + [f"{100 * run[number]:.2f} %" for number in ("accuracy", "float_accuracy")]
            for name, run in best.items()
        ),
    )


def settings_of(run: dict[str, Any]) -> str:
    """Lambda and what else was set."""
    entropy = f"lambda {run['lambda_entropy']} " if run["lambda_entropy"] else ""
    return (entropy + run["settings"]).strip()


def sweep_lobster(runs: Sequence[dict[str, Any]]) -> str:
    """HEMP of order 2, alone and with LOBSTER at two strengths of decay."""
    members = [run for run in runs if run["method"] == "hemp" and run["order"] == 2]
    columns = {"HEMP alone": "", "with LOBSTER, decay 0.0001": "0.0001 ", "decay 0.001": "0.001 "}
    lambdas = sorted({run["lambda_entropy"] for run in members}, key=float)
    found = {
        (run["lambda_entropy"], decay): f"{run['file_bytes']:,.0f} B, "
        f"{100 * run['val_accuracy']:.2f} %, {100 * run['accuracy']:.2f} %"
        for run in members
        for decay in columns.values()
        if (f"lambda_decay={decay}" in run["settings"] if decay else run["pruning"] == "none")
    }
    return table(
        ["lambda", *columns],
        (
            [value, *(found.get((value, decay), "") for decay in columns.values())]
            for value in lambdas
        ),
    )


def sweep_all(runs: Sequence[dict[str, Any]]) -> str:
    """Every run of the sweep."""
    return table(
        ["method", "settings", "file:", "validation:", "decoded:"],
        (
            [method_of(run), settings_of(run), f"{run['file_bytes']:,.0f} B"]
            + [f"{100 * run[number]:.2f} %" for number in ("val_accuracy", "accuracy")]
            for run in sorted(runs, key=lambda run: (method_of(run), run["file_bytes"]))
        ),
    )


def pages(root: Path, networks: dict[str, Network]) -> dict[Path, dict[str, Callable[[], str]]]:
    """Every page that holds tables, with what makes each."""
    results = root / "benchmarks/results"
    found: dict[Path, dict[str, Callable[[], str]]] = {
        root / "README.md": {
            "results": lambda: overview(networks, "benchmarks/results/{}/RESULTS.md", True)
        },
        results / "README.md": {
            "overview": lambda: overview(networks, "{}/RESULTS.md", False),
            "term": lambda: table(
                TERM_HEADINGS,
                [row for network in networks.values() for row in term_rows(network)],
            ),
        },
    }
    for name, network in networks.items():
        makers = {"recipes": recipes, "seeds": seeds, "nncodec": nncodec}
        makers |= {"term": term} if "term" in network.manifest else {}
        makers |= {"published": published} if network.published else {}
        found[results / name / "RESULTS.md"] = {
            key: (lambda maker=maker, network=network: maker(network))
            for key, maker in makers.items()
        }
    words = results / "characters"
    found[words / "RESULTS.md"] = {"runs": lambda: table(*language_rows(words))}
    runs = read_sweep(results / SWEEP / "results.csv")
    found[results / SWEEP / "RESULTS.md"] = {
        "best": lambda: sweep_best(runs),
        "lobster": lambda: sweep_lobster(runs),
        "all": lambda: sweep_all(runs),
    }
    return found


def pictures(root: Path, networks: dict[str, Network]) -> list[Picture]:
    """Every picture: its file, what it shows, and what draws it."""
    folder = root / "benchmarks/results"
    runs = read_sweep(folder / SWEEP / "results.csv")
    series: dict[str, list[tuple[float, float]]] = {}
    for run in sorted(runs, key=lambda run: (method_of(run), run["file_bytes"])):
        points = series.setdefault(method_of(run), [])
        if not points or 100 * run["accuracy"] > points[-1][1]:  # the front of the method
            points.append((run["file_bytes"], round(100 * run["accuracy"], 2)))
    first = networks["lenet5_mnist"].record.runs[0]
    shown = {
        "style": 1,
        "title": "LeNet-5 on MNIST, four epochs from one float network, seed 0",
        "series": series,
        "float": [first["float_bytes"], round(100 * runs[0]["float_accuracy"], 2)],
    }
    return [
        (folder / "headline.png", picture_data(networks), draw_headline),
        (folder / SWEEP / "lenet5_mnist.png", shown, draw_sweep),
    ]


def filled(text: str, makers: dict[str, Callable[[], str]], page: str) -> str:
    """The page with every table made anew.

    Raises:
        ValueError: A marker is missing from the page, or names a table that nothing makes.
    """
    pattern = SMALL if set(makers) == {"results"} else TABLE
    names = [match[2] for match in pattern.finditer(text)]
    if sorted(names) != sorted(makers):
        raise ValueError(f"{page} must hold the tables {sorted(makers)}; found {sorted(names)}")
    return pattern.sub(lambda match: f"{match[1]}{makers[match[2]]()}{match[4]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        1 if `--check` found a difference, else 0.
    """
    parser = argparse.ArgumentParser(description="Tables and pictures of results.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md")
    options = parser.parse_args(arguments)
    networks = read_networks(options.root / "benchmarks/results")
    differing = 0
    for path, makers in pages(options.root, networks).items():
        name = str(path.relative_to(options.root))
        before = path.read_text()
        after = filled(before, makers, name)
        if before == after:
            continue
        differing += 1
        print(f"{name} differs from the results files" if options.check else f"wrote {name}")
        old, new = before.splitlines(), after.splitlines()
        for line in [line for line in new if line not in old][:5] if options.check else []:
            print(f"  the results files say: {line}")
        if not options.check:
            path.write_text(after)
    for picture, data, draw in pictures(options.root, networks):
        if stored_digest(picture) == digest_of(data):
            continue
        differing += 1
        name = str(picture.relative_to(options.root))
        print(f"{name} differs from the results files" if options.check else f"wrote {name}")
        if not options.check:
            draw(data, picture)
    if options.check and differing:
        print("`python benchmarks/tables.py` writes them anew")
    return int(options.check and differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
