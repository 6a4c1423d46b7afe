"""Peak memory of the entropy term, in multiples of the weights' bytes (Linux).

    python -m benchmarks.entropy_memory [--weights 1e7] [--levels 16 64]

Value and gradient, order 1 to 4, of float32 weights. The loops are compiled before; the peak is
what the process takes above what it held before, so the gradient, as large as the weights, counts.
"""

from __future__ import annotations

import argparse
from datetime import date

import torch

import hemp_lightning
from benchmarks.memory import peak_above
from hemp_lightning.entropy.formula import entropy_and_gradients, warm_up


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=float, default=1e7)
    parser.add_argument("--levels", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, orders = int(arguments.weights), (1, 2, 3, 4)
    weights = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 0.1
    for order in orders:
        warm_up(order)
    print(
        f"{date.today()}, torch {torch.__version__}, hemp_lightning {hemp_lightning.__version__}, "
        f"{size:,} weights, threads: {arguments.threads}\n"
    )
    print("| levels | " + " | ".join(f"order {order}" for order in orders) + " |")
    print("|---|" + "---|" * len(orders))
    for num_levels in arguments.levels:
        levels = torch.linspace(-0.35, 0.35, num_levels)
        row = []
        for order in orders:
            peak = peak_above(lambda: entropy_and_gradients([weights], [levels], order))  # noqa: B023
            row.append("-" if peak is None else f"{peak / 4 / size:.2f}")
        print(f"| {num_levels} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
