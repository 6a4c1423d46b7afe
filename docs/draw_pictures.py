"""Draw the pictures of `how_it_works.md`: `python docs/draw_pictures.py [FOLDER]`.

The figures are computed by the package itself, on a few weights that a reader can count.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hemp_lightning.entropy import entropy_and_gradients, index_entropy
from hemp_lightning.quantization import LloydMaxQuantizer, UniformQuantizer

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "hemp", "font.size": 11, "axes.grid": False}


def split() -> Figure:
    """A weight between two levels, and how much of it each level gets."""
    levels = torch.tensor([-1.0, 0.0, 1.0])
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    axes = figure.subplots()
    for level, color in zip(levels.tolist(), (BLUE, GREY, ORANGE), strict=True):
        grid = torch.linspace(-1.5, 1.5, 301)
        share = (1 - (grid.clamp(-1, 1) - level).abs()).clamp_min(0)
        axes.plot(grid, share, color=color, linewidth=2)
        axes.plot(level, 0, "o", color=color, markersize=9, clip_on=False)
        axes.annotate(
            f"level {level:g}", (level, 1.04), ha="center", color=color, annotation_clip=False
        )
    weight = 0.3
    axes.axvline(weight, color="black", linestyle=":", linewidth=1.5)
    axes.plot([weight, weight], [0.7, 0.3], "o", color="black", markersize=5)
    axes.annotate("70 % to level 0", (weight + 0.04, 0.72))
    axes.annotate("30 % to level 1", (weight + 0.04, 0.18))
    axes.annotate("weight 0.3", (weight, -0.2), ha="center", annotation_clip=False)
    axes.set(xlim=(-1.5, 1.5), ylim=(0, 1.12), ylabel="share of the weight", xticks=[])
    _open(axes)
    return figure


def pull() -> Figure:
    """What gradient descent on the entropy alone does to the weights of a small tensor."""
    generator = torch.Generator().manual_seed(0)
    weights = 0.45 * torch.randn(2000, generator=generator)
    levels = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    parts = figure.subplots(1, 2, sharey=True)
    for axes, steps in zip(parts, (0, 30), strict=True):
        for _ in range(steps):
            _, (gradient,) = entropy_and_gradients([weights], [levels], order=1)
            weights = weights - 4.0 * gradient
        rate, _ = entropy_and_gradients([weights], [levels], order=1)
        axes.hist(weights, bins=80, range=(-1.6, 1.6), color=BLUE, alpha=0.5)
        for level in levels.tolist():
            axes.axvline(level, color=ORANGE, linewidth=1)
        word = f"after {steps} steps" if steps else "before"
        axes.set(title=f"{word}: {float(rate):.2f} bits per weight", xlabel="weight")
        _open(axes)
    parts[0].set_ylabel("number of weights")
    return figure


def levels() -> Figure:
    """Two quantizers on the same weights: where the levels are and what each costs."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.cat(
        [
            0.05 * torch.randn(9000, generator=generator),
            0.5 * torch.randn(1000, generator=generator),
        ]
    )
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    parts = figure.subplots(1, 2, sharey=True)
    for axes, name, quantizer in zip(
        parts,
        ("uniform grid", "Lloyd-Max"),
        (UniformQuantizer(7), LloydMaxQuantizer(7)),
        strict=True,
    ):
        book = quantizer.fit(weights)
        bits = index_entropy(book.assign(weights), book.num_levels, order=1)
        error = float((weights - book.quantize(weights)).square().mean().sqrt())
        axes.hist(weights, bins=90, range=(-1.6, 1.6), color=BLUE, alpha=0.5, log=True)
        for level in book.levels.tolist():
            axes.axvline(level, color=ORANGE, linewidth=1.5)
        axes.set(
            title=f"{name}: {bits:.2f} bits, error {error:.3f}", xlabel="weight", xlim=(-1.6, 1.6)
        )
        _open(axes)
    parts[0].set_ylabel("number of weights")
    return figure


def pairs() -> Figure:
    """Two strings with the same symbols: order 1 sees no difference, order 2 does."""
    mixed = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1])
    ordered = torch.tensor([0, 1] * 8)
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = figure.subplots()
    for row, (name, indices) in enumerate((("mixed", mixed), ("in pairs", ordered))):
        for place, index in enumerate(indices.tolist()):
            axes.add_patch(_square(place + 0.2 * (place // 2), -row * 1.6, (BLUE, ORANGE)[index]))
        rates = [index_entropy(indices, 2, order) for order in (1, 2)]
        axes.text(-0.4, -row * 1.6 + 0.5, name, ha="right", va="center")
        axes.text(
            18.1,
            -row * 1.6 + 0.5,
            f"order 1: {rates[0]:.2f} bits, order 2: {rates[1]:.2f} bits",
            va="center",
        )
    axes.set(xlim=(-3, 28.5), ylim=(-1.9, 1.3), aspect="equal")
    axes.axis("off")
    return figure


def _square(left: float, bottom: float, color: str) -> Rectangle:
    return Rectangle((left, bottom), 0.9, 0.9, color=color)


def _open(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


PICTURES = {"split": split, "pull": pull, "levels": levels, "pairs": pairs}


def main(folder: Path) -> None:
    """Write all pictures to a folder, as SVG."""
    with rc_context(STYLE):
        for name, draw in PICTURES.items():
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
