"""What a run leaves behind: results.json, a table on the screen, a picture of the weights."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MOST_TENSORS = 6  # in the picture of the weights
MOST_LEVELS = 256  # more are no levels: the tensor is stored as floats
BLUE, VERMILION = "#0072B2", "#D55E00"  # told apart by people who see fewer colours


def float_bytes(network: nn.Module) -> int:
    """Size of a network in float32: 4 bytes for each entry of parameters and buffers, tied once.

    Example:
        >>> float_bytes(nn.Linear(10, 3))
        132
    """
    tensors = {t.data_ptr(): t for t in (*network.parameters(), *network.buffers())}
    return 4 * sum(t.numel() for t in tensors.values())


def peak_memory_bytes() -> int:
    """Most memory held so far: of the GPU if one was used, else of this process.

    Jobs that a sweep runs in one process share the process's peak.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def zero_share(network: nn.Module) -> float:
    """Share of the entries of the weight tensors (two dimensions or more) that are exactly 0.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.eye_(layer.weight)
        >>> zero_share(layer)
        0.5
    """
    weights = [p for p in network.parameters() if p.ndim > 1]
    zeros = sum(int((p == 0).sum()) for p in weights)
    return zeros / max(1, sum(p.numel() for p in weights))


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """Write results.json; complete or not at all."""
    partial = folder / "results.json.partial"
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.replace(folder / "results.json")


def print_table(results: Mapping[str, Any], folder: Path) -> None:
    """Print sizes and qualities: the float network, the estimate, the file that was read back.

    Args:
        results: The entries of `results.json`.
        folder: The run folder, for the words on what to do next.
    """
    from rich.console import Console
    from rich.table import Table

    r = results
    metric, entries = r["metric"], r["float_bytes"] // 4
    before, after = (
        f"{r[f'{start}accuracy']:.2%}" if metric == "accuracy" else f"{r[f'{start}value']:.4g}"
        for start in ("float_", "")
    )
    table = Table(title=f"{r['model']} on {r['dataset']}, {r['method']}, seed {r['seed']}")
    for heading in ("", "bytes", "bits per weight", "ratio", f"test {metric.replace('_', ' ')}"):
        table.add_column(heading, justify="left" if not heading else "right")
    start, epochs = min(r["float_epochs"], r["epochs"]), r["epochs"]
    table.add_row(f"float, {start} epochs", f"{r['float_bytes']:,}", "32", "1", before)
    if r["entropy_bits_per_weight"] is not None:
        estimate = r["entropy_bits_per_weight"]
        table.add_row(
            "entropy of the indices", f"{entries * estimate / 8:,.0f}", f"{estimate:.4f}", "", ""
        )
    table.add_row(
        f"{r['file']}, decoded",
        f"{r['file_bytes']:,}",
        f"{r['bits_per_weight']:.4f}",
        f"{r['compression_ratio']:.1f}",
        after,
    )
    console = Console()
    console.print(table)
    if 0 < start < epochs:
        console.print(
            f"The float network is the one that {r['method']} began with. The file had "
            f"{epochs - start} epochs more: it may be the better one.",
            soft_wrap=True,
        )
    console.print(f"Everything is in {folder}", soft_wrap=True)
    if r["file"].endswith(".hemp"):
        console.print(f"Next: hemp inspect {folder / r['file']}", soft_wrap=True)
    console.print(f"      hemp report {folder}", soft_wrap=True)


def draw_weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor], path: Path) -> None:
    """Draw the largest weight tensors, at most six, before the method and as the file holds them.

    On the left the float weights and, as lines, the levels of the file; on the right how many
    weights each level has.

    Args:
        before: State dict of the float network, as the method found it.
        after: State dict of the network decoded from the file, on any device.
        path: The picture to write, PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    weights = [k for k, v in after.items() if v.ndim > 1 and v.is_floating_point()]
    names = sorted(weights, key=lambda name: -after[name].numel())[:MOST_TENSORS]
    figure = Figure(figsize=(10, 1.4 + 2.1 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(axes, names, strict=True):
        levels, counts = after[name].flatten().float().cpu().unique(return_counts=True)
        left.hist(before[name].flatten().float().cpu().numpy(), bins=101, color=BLUE, log=True)
        left.set_title(f"{name} ({' x '.join(map(str, after[name].shape))})", fontsize=10)
        if len(levels) <= MOST_LEVELS:
            for level in levels.tolist():
                left.axvline(level, color=VERMILION, linewidth=0.9)
            right.bar(range(len(levels)), counts.numpy(), color=VERMILION, log=True, width=0.7)
            shown = range(0, len(levels), max(1, len(levels) // 12))
            right.set_xticks(shown, [f"{float(levels[i]):.3g}" for i in shown])
            zeros = float((after[name] == 0).float().mean())
            right.set_title(f"{len(levels)} levels, {zeros:.1%} of the weights at 0", fontsize=10)
        else:
            decoded = after[name].flatten().float().cpu().numpy()
            right.hist(decoded, bins=101, color=VERMILION, log=True)
            right.set_title("not quantized", fontsize=10)
        for one in (left, right):
            one.set_ylabel("number of weights")
            one.set_ylim(bottom=0.6)
            one.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            one.yaxis.set_minor_formatter(NullFormatter())
    axes[-1][0].set_xlabel("value of the weight")
    axes[-1][1].set_xlabel("level: its value")
    which = f"the {len(names)} largest of {len(weights)}" if len(names) < len(weights) else "all"
    figure.suptitle(f"Weight tensors, {which}; numbers of weights on a log axis", fontsize=12)
    figure.legend(
        handles=[
            _patch(BLUE, "before: the float network with which the method began"),
            _patch(VERMILION, "after: the levels in the file, and how many weights each has"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    figure.savefig(path, dpi=110)


def _patch(color: str, label: str) -> Any:
    """One entry of a legend."""
    from matplotlib.patches import Patch

    return Patch(color=color, label=label)
