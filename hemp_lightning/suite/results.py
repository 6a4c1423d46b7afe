"""What a run leaves behind: results.json, a table on the screen, a picture of the weights."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hemp_lightning.quantization.transforms import to_coefficients

MOST_TENSORS = 6  # in the picture of the weights
MOST_LABELS = 8  # of levels below their bars, which stand side by side
MOST_LEVELS = 256  # more are no levels: the tensor is stored as floats
CLOSE = 1e-5  # of the largest coefficient: less than the distance of any two levels
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


def print_table(results: Mapping[str, Any], folder: Path, sweeping: bool = False) -> None:
    """Print sizes and qualities: the float network, the estimate, the file that was read back.

    Args:
        results: The entries of `results.json`.
        folder: The run folder, for the words on what to do next.
        sweeping: Whether the run is one of a sweep, which says itself what to do next.
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
        last = heading.startswith("test")  # may break into lines, the others stay whole
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not last)
    start, epochs = min(r["float_epochs"], r["epochs"]), r["epochs"]
    table.add_row(f"float, {_epochs(start)}", f"{r['float_bytes']:,}", "32", "1", before)
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
            f"{_epochs(epochs - start)} more: it may be the better one.",
            soft_wrap=True,
        )
    console.print(f"Everything is in {folder}", soft_wrap=True)
    if sweeping:
        return
    if r["file"].endswith(".hemp"):
        console.print(f"Next: hemp inspect {folder / r['file']}", soft_wrap=True)
    console.print(f"      hemp report {folder}", soft_wrap=True)


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def draw_weights(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    path: Path,
    transformed: Collection[str] = (),
) -> None:
    """Draw the largest weight tensors, at most six, before the method and as the file holds them.

    On the left the float weights and, as lines, the levels of the file; on the right how many
    weights each level has. Where the file quantizes cosine coefficients, these are drawn.

    Args:
        before: State dict of the float network, as the method found it.
        after: State dict of the network decoded from the file, on any device.
        path: The picture to write, PNG.
        transformed: Names of the tensors whose cosine coefficients the file holds.
    """
    from matplotlib.figure import Figure

    weights = [k for k, v in after.items() if v.ndim > 1 and v.is_floating_point()]
    names = sorted(weights, key=lambda name: -after[name].numel())[:MOST_TENSORS]
    figure = Figure(figsize=(10, 1.4 + 2.1 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(axes, names, strict=True):
        _draw_tensor(left, right, name, before[name], after[name], name in transformed)
    axes[-1][0].set_xlabel("value of the weight or coefficient")
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


def _draw_tensor(
    left: Any, right: Any, name: str, before: Tensor, after: Tensor, transformed: bool
) -> None:
    """One tensor: float values on the left, its levels in the file on the right."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    floats, decoded = (quantized_values(tensor, transformed) for tensor in (before, after))
    levels, counts = count_levels(decoded, transformed)
    shape = " x ".join(map(str, after.shape))
    left.hist(floats.ravel(), bins=101, color=BLUE, log=True)
    left.set_title(f"{name} ({shape}){', cosine coefficients' if transformed else ''}", fontsize=10)
    if len(levels) <= MOST_LEVELS:
        for level in levels.tolist():
            left.axvline(level, color=VERMILION, linewidth=0.9)
        right.bar(range(len(levels)), counts, color=VERMILION, log=True, width=0.7)
        every = -(-len(levels) // MOST_LABELS)
        shown = range(int(np.abs(levels).argmin()) % every, len(levels), every)  # 0 among them
        right.set_xticks(shown, [f"{levels[i]:.3g}" for i in shown])
        what = "coefficients" if transformed else "weights"
        zeros = counts[levels == 0].sum() / counts.sum()
        right.set_title(f"{len(levels)} levels, {zeros:.1%} of the {what} at 0", fontsize=10)
    else:
        right.hist(decoded.ravel(), bins=101, color=VERMILION, log=True)
        right.set_title("not quantized", fontsize=10)
    for one in (left, right):
        one.set_ylabel("number of weights")
        one.set_ylim(bottom=0.6)
        one.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        one.yaxis.set_minor_formatter(NullFormatter())


def quantized_values(weights: Tensor, transformed: bool) -> np.ndarray:
    """What the file quantizes of a tensor: its weights, or their cosine coefficients; float32."""
    values = weights.detach().float().cpu().numpy()
    return to_coefficients(values) if transformed else values


def count_levels(values: np.ndarray, transformed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Levels of a decoded tensor, ascending, and how many of its values each has.

    Args:
        values: What `quantized_values` gave.
        transformed: Whether they are coefficients. Those lie on the levels but for the last bits
            of a sum, so that neighbours closer than `CLOSE` are one level, and the least ones 0.

    Example:
        >>> count_levels(np.array([1.0, 2.0, 1.0000001, 1e-9]), True)
        (array([0., 1., 2.]), array([1, 2, 1]))
    """
    ordered = np.sort(values.ravel())
    gap = CLOSE * np.abs(ordered).max(initial=0.0) if transformed else 0.0
    starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf) > gap)
    levels = ordered[starts]
    return np.where(np.abs(levels) <= gap, 0.0, levels), np.diff(starts, append=len(ordered))


def _patch(color: str, label: str) -> Any:
    """One entry of a legend."""
    from matplotlib.patches import Patch

    return Patch(color=color, label=label)
