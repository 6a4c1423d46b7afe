"""Speed of the entropy term, the quantizers and a training step, as ratios within one run.

    python benchmarks/entropy.py --threads 1 --sizes 1e5 1e6 1e7 1e8 --networks
    python benchmarks/entropy.py --threads 2 --skip entropy quantizers --networks lenet5 --pairs 15

Times of functions are the least of several, in turn with the yardstick they are divided by; those
of training steps are medians. benchmarks/results/entropy.md holds the tables.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hemp_lightning
from hemp_lightning import HEMPCallback
from hemp_lightning.codebook import Codebook
from hemp_lightning.entropy import entropy_and_gradients
from hemp_lightning.models import build
from hemp_lightning.quantizers import LloydMaxQuantizer
from hemp_lightning.rates import RATE_MODELS, _plain, context_lengths, rate_and_gradients

MOST_PRODUCTS = 1 << 28
"""Soft assignments that the brute force may hold at a time; it needs several times their memory."""


def timed(actions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Least seconds of each action, the actions taken in turn."""
    best = [float("inf")] * len(actions)
    for action in actions:
        action()
    for _ in range(rounds):
        for i, action in enumerate(actions):
            start = time.perf_counter()
            action()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def brute_force(weights: torch.Tensor, levels: torch.Tensor, order: int) -> torch.Tensor:
    """The gradient of the entropy by autograd, every weight assigned softly to every level."""
    weights = weights.clone().requires_grad_()
    tuples = weights[: len(weights) // order * order].view(-1, order)
    gaps = levels.diff()
    apart = tuples.clamp(levels[0], levels[-1])[..., None] - levels
    upwards = 1 + apart / torch.cat([gaps[:1], gaps])
    downwards = 1 - apart / torch.cat([gaps, gaps[-1:]])
    soft = torch.minimum(upwards, downwards).clamp_min(0)
    products = soft[:, 0]
    for place in range(1, order - 1):
        products = (products[:, :, None] * soft[:, place, None]).flatten(1)
    table = products.sum(0) if order == 1 else products.T @ soft[:, -1]
    shares = table[table > 0] / len(tuples)
    (shares * shares.log2()).sum().neg().backward()
    return weights.grad if weights.grad is not None else weights


def entropy_table(sizes: list[int]) -> None:
    """Value and gradient against `torch.clone`, `torch.sin` and the brute force, where it can."""
    print("\n## Entropy term: value and gradient\n")
    print(
        "| weights | order | levels | ms | ns per weight | of torch.clone | of torch.sin "
        "| brute force, times as long |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for size in sizes:
        weights = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 0.1
        rounds = 7 if size <= 10**6 else 2
        for num_levels in (4, 16, 64):
            levels = torch.linspace(-0.35, 0.35, num_levels)
            for order in (1, 2, 3, 4):
                term = partial(entropy_and_gradients, [weights], [levels], order)
                seconds, clone, sine = timed([term, weights.clone, weights.sin], rounds)
                times = "-"
                products = size // order * num_levels ** max(order - 1, 1)
                if products <= MOST_PRODUCTS:
                    (brute,) = timed([partial(brute_force, weights, levels, order)], 1)
                    times = f"{brute / seconds:.0f}"
                nanoseconds = 1e9 * seconds / size
                print(
                    f"| {size:,} | {order} | {num_levels} | {1e3 * seconds:.2f} "
                    f"| {nanoseconds:.2f} | {seconds / clone:.1f} | {seconds / sine:.2f} "
                    f"| {times} |",
                    flush=True,
                )


def lengths_table(sizes: list[int]) -> None:
    """The rate of `rate_model="context"`: value and gradient, between levels of known lengths."""
    print("\n## Code lengths of the context coder: value and gradient\n")
    print(
        "| weights | levels | ms | ns per weight | of torch.sin | torch, times as long "
        "| taking them anew, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        weights = torch.randn(size // 500, 500, generator=torch.Generator().manual_seed(0)) * 0.1
        for num_levels in (5, 16):
            book = Codebook(torch.linspace(-0.35, 0.35, num_levels))
            indices = book.assign(weights)
            lengths = context_lengths(indices, num_levels)
            rate = partial(rate_and_gradients, [weights], [book.levels], [lengths])
            plain = partial(_plain, weights, book.levels, lengths, size)
            seconds, sine, slow = timed([rate, weights.sin, plain], 7)
            (anew,) = timed([partial(context_lengths, indices, num_levels)], 1)
            print(
                f"| {size:,} | {num_levels} | {1e3 * seconds:.2f} | {1e9 * seconds / size:.2f} "
                f"| {seconds / sine:.2f} | {slow / seconds:.0f} | {anew:.2f} |",
                flush=True,
            )


def quantizer_table() -> None:
    """Lloyd-Max with 16 levels: a first fit, a refit, and the assignment."""
    print("\n## Lloyd-Max, 16 levels\n")
    print("| weights | fit s | refit s | assign s | torch.sort s |")
    print("|---|---|---|---|---|")
    for size in (11_000_000, 25_500_000):
        weights = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 0.1
        quantizer = LloydMaxQuantizer(16)
        book = quantizer.fit(weights)
        moved = weights + 1e-4 * weights.flip(0)
        columns = timed(
            [
                lambda: quantizer.fit(weights),  # noqa: B023
                lambda: quantizer.fit(moved, book),  # noqa: B023
                lambda: book.assign(weights),  # noqa: B023
                lambda: torch.sort(weights),  # noqa: B023
            ],
            2,
        )
        print(f"| {size:,} | " + " | ".join(f"{seconds:.3f}" for seconds in columns) + " |")


class Module(LightningModule):
    """A network of the zoo on random images."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = build(name)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


IMAGES = {"lenet5": (1, 28), "lenet300": (1, 28)}  # channels and size, else those of CIFAR
STEPS = {"lenet5": 60, "lenet300": 60, "resnet20": 12}  # in a run, else 8
QUARTILES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


class StepTimer(Callback):
    """Seconds from the start of one batch to the start of the next."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        """Take the time."""
        self.stamps.append(time.perf_counter())


def median_step(
    name: str, channels: int, size: int, steps: int, callback: HEMPCallback | None
) -> float:
    """Median seconds of a training step with a batch of 128."""
    images = torch.randn(128 * steps, channels, size, size)
    data = TensorDataset(images, torch.randint(0, 10, (len(images),)))
    timer = StepTimer()
    callbacks = [timer, callback] if callback else [timer]
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(Module(name), DataLoader(data, batch_size=128))
    gaps = torch.tensor(timer.stamps, dtype=torch.float64).diff()
    return float(gaps[2:].median())


def step_table(networks: list[str], num_pairs: int, rate_model: str) -> None:
    """A training step with the callback (order 3, 16 levels, every step) over one without."""
    print(f"\n## Training step, batch 128, order 3, 16 levels, rate model {rate_model}\n")
    print(f"Medians of {num_pairs} pairs of runs; the quartiles of the pairs' ratios.\n")
    print("| network | step without, ms | step with, ms | ratio | quartiles |")
    print("|---|---|---|---|---|")
    for name in networks:
        channels, size = IMAGES.get(name, (3, 32))
        steps = STEPS.get(name, 8)
        pairs = [
            [
                median_step(name, channels, size, steps, callback)
                for callback in (
                    None,
                    HEMPCallback(order=3, num_levels=16, rate_model=rate_model),
                )
            ]
            for _ in range(num_pairs)
        ]
        without, with_callback = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        low, ratio, high = (with_callback / without).quantile(QUARTILES).tolist()
        print(
            f"| {name} | {1e3 * without.median():.1f} | {1e3 * with_callback.median():.1f} "
            f"| {ratio:.3f} | {low:.2f} to {high:.2f} |",
            flush=True,
        )


class Profiled(HEMPCallback):
    """The callback with a clock around its parts."""

    def __init__(self) -> None:
        super().__init__(order=3, num_levels=16)
        self.seconds: dict[str, list[float]] = {"enter": [], "leave": [], "_add_terms": []}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for part in self.seconds:
            owner = self if part == "_add_terms" else self._stand_in
            setattr(owner, part, partial(self._clocked, part, getattr(owner, part)))

    def _clocked(self, part: str, method: Callable[..., None], *args: object) -> None:
        if part == "_add_terms" or self._stand_in.active == (part == "leave"):  # it has work to do
            start = time.perf_counter()
            method(*args)
            self.seconds[part].append(time.perf_counter() - start)


def profile_table(networks: list[str]) -> None:
    """Where the callback's time goes within a training step."""
    print("\n## Parts of the callback, ms a step (median)\n")
    print("| network | quantized weights in | real weights back | both terms |")
    print("|---|---|---|---|")
    for name in networks:
        channels, size = IMAGES.get(name, (3, 32))
        callback = Profiled()
        median_step(name, channels, size, 8, callback)
        medians = [1e3 * float(torch.tensor(s[2:]).median()) for s in callback.seconds.values()]
        print(f"| {name} | " + " | ".join(f"{ms:.2f}" for ms in medians) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--networks", nargs="*", default=["lenet5", "resnet20", "resnet18"])
    parser.add_argument("--pairs", type=int, default=5, help="of runs with and without")
    parser.add_argument("--rate-model", default="tuples", choices=RATE_MODELS, help="of steps")
    tables = ["entropy", "lengths", "quantizers", "parts"]
    parser.add_argument("--skip", nargs="*", default=[], choices=tables)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    print(f"# Speed, {args.threads} thread(s)\n")
    print(
        f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"hemp_lightning {hemp_lightning.__version__}, {date.today()}"
    )
    if "entropy" not in args.skip:
        entropy_table([int(size) for size in args.sizes])
    if "lengths" not in args.skip:
        lengths_table([int(size) for size in args.sizes if size <= 1e7])
    if "quantizers" not in args.skip:
        quantizer_table()
    step_table(args.networks, args.pairs, args.rate_model)
    if "parts" not in args.skip:
        profile_table(args.networks)


if __name__ == "__main__":
    main()
