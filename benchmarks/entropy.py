"""Speed of the entropy term, the quantizers and a training step, as ratios within one run.

    python benchmarks/entropy.py --threads 1 --sizes 1e5 1e6 1e7 1e8 --networks
    python benchmarks/entropy.py --threads 2 --skip entropy quantizers --networks lenet5 --pairs 60
    python benchmarks/entropy.py --device cuda --skip lengths --networks resnet50 resnet18 \
        --batch-size 512 --precision bf16-mixed

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
from dataclasses import dataclass
from datetime import date
from functools import partial

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hemp_lightning
from hemp_lightning import HEMPCallback
from hemp_lightning.entropy.context_lengths import (
    RATE_MODELS,
    _plain,
    context_lengths,
    rate_and_gradients,
)
from hemp_lightning.entropy.formula import entropy_and_gradients
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.quantization.quantizers import LloydMaxQuantizer
from hemp_lightning.quantization.selection import select_tensors
from hemp_lightning.suite.models import build

MOST_PRODUCTS = 1 << 28
"""Soft assignments that the brute force may hold at a time; it needs several times their memory."""


def now() -> float:
    """Seconds on a clock that waits for the GPU, if there is one in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(actions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Least seconds of each action, the actions taken in turn."""
    best = [float("inf")] * len(actions)
    for action in actions:
        action()
    for _ in range(rounds):
        for i, action in enumerate(actions):
            start = now()
            action()
            best[i] = min(best[i], now() - start)
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


def entropy_table(sizes: list[int], numbers: list[int], device: str) -> None:
    """Value and gradient against `torch.clone`, `torch.sin` and the brute force, where it can."""
    print("\n## Entropy term: value and gradient\n")
    print(
        "| weights | order | levels | ms | ns per weight | of torch.clone | of torch.sin "
        "| brute force, times as long |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for size in sizes:
        weights = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device) * 0.1
        rounds = 7 if size <= 10**6 else 2
        for num_levels in numbers:
            levels = torch.linspace(-0.35, 0.35, num_levels, device=device)
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


def networks_table(networks: list[str], device: str) -> None:
    """Value and gradient for all weights of a network at once, a table a tensor, 16 levels."""
    print("\n## Entropy term of whole networks, 16 levels\n")
    print("| network | weights | tensors | order | ms | of torch.clone |")
    print("|---|---|---|---|---|---|")
    for name in networks:
        network = build(name).to(device)
        weights = [w.detach() for w in select_tensors(network, "weights").values()]
        books = [LloydMaxQuantizer(16).fit(weight) for weight in weights]
        levels = [book.levels.to(device) for book in books]
        size = sum(weight.numel() for weight in weights)
        joined = torch.cat([weight.reshape(-1) for weight in weights])
        for order in (1, 2, 3, 4):
            term = partial(entropy_and_gradients, weights, levels, order)
            seconds, clone = timed([term, joined.clone], 15)
            print(
                f"| {name} | {size:,} | {len(weights)} | {order} | {1e3 * seconds:.3f} "
                f"| {seconds / clone:.1f} |",
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


def quantizer_table(device: str) -> None:
    """Lloyd-Max with 16 levels: a first fit, a refit, and the assignment."""
    print("\n## Lloyd-Max, 16 levels\n")
    print("| weights | fit s | refit s | assign s | torch.sort s |")
    print("|---|---|---|---|---|")
    for size in (11_000_000, 25_500_000):
        weights = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device) * 0.1
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
WARM_PAIRS = 2
QUARTILES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


@dataclass(frozen=True)
class Steps:
    """How training steps are measured."""

    device: str
    batch_size: int
    precision: str


class StepTimer(Callback):
    """Seconds from the start of one batch to the start of the next."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        """Take the time."""
        self.stamps.append(now())


class EveryOther(HEMPCallback):
    """The callback at every other step, so that both kinds of steps see the same machine."""

    def is_active(self, trainer: Trainer) -> bool:
        """At odd steps."""
        return super().is_active(trainer) and trainer.global_step % 2 == 1


def step_seconds(name: str, steps: int, how: Steps, callback: HEMPCallback) -> torch.Tensor:
    """Seconds of each training step, `(steps,)`."""
    channels, size = IMAGES.get(name, (3, 32))
    images = torch.randn(how.batch_size * (steps + 1), channels, size, size)
    data = TensorDataset(images, torch.randint(0, 10, (len(images),)))
    timer = StepTimer()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu" if how.device == "cpu" else "gpu",
        devices=1,
        precision=how.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[timer, callback],
    )
    trainer.fit(Module(name), DataLoader(data, batch_size=how.batch_size))
    return torch.tensor(timer.stamps, dtype=torch.float64).diff()


def step_table(networks: list[str], pairs: int, rate_model: str, how: Steps) -> None:
    """A training step with the callback (order 3, 16 levels) over the one before without."""
    print(
        f"\n## Training step, batch {how.batch_size}, {how.precision}, order 3, 16 levels, rate "
        f"model {rate_model}\n"
    )
    print(f"Medians of {pairs} pairs of steps, and of their ratios; quartiles of the ratios.\n")
    print("| network | step without, ms | step with, ms | ratio | quartiles |")
    print("|---|---|---|---|---|")
    for name in networks:
        callback = EveryOther(order=3, num_levels=16, rate_model=rate_model)
        seconds = step_seconds(name, 2 * (pairs + WARM_PAIRS), how, callback)
        without, with_callback = seconds.view(-1, 2)[WARM_PAIRS:].unbind(1)
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
        self.seconds: dict[str, list[float]] = {"_open": [], "_close": [], "_add": []}
        for part in self.seconds:
            owner = self._terms if part == "_add" else self._network.forward
            setattr(owner, part, partial(self._clocked, part, getattr(owner, part)))

    def _clocked(self, part: str, method: Callable[..., None], *args: object) -> None:
        start = now()
        method(*args)
        self.seconds[part].append(now() - start)


def profile_table(networks: list[str], how: Steps) -> None:
    """Where the callback's time goes within a training step."""
    print("\n## Parts of the callback, ms a step (median)\n")
    print("| network | quantized weights in | real weights back | both terms |")
    print("|---|---|---|---|")
    for name in networks:
        callback = Profiled()
        step_seconds(name, 10, how, callback)
        medians = [1e3 * float(torch.tensor(s[2:]).median()) for s in callback.seconds.values()]
        print(f"| {name} | " + " | ".join(f"{ms:.2f}" for ms in medians) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--levels", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--networks", nargs="*", default=["lenet5", "resnet20", "resnet18"])
    parser.add_argument("--pairs", type=int, default=30, help="of steps with and without")
    parser.add_argument("--rate-model", default="tuples", choices=RATE_MODELS, help="of steps")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch-size", type=int, default=128, help="of steps")
    parser.add_argument("--precision", default="32-true", help="of steps, a Trainer's")
    tables = ["entropy", "networks", "lengths", "quantizers", "steps", "parts"]
    parser.add_argument("--skip", nargs="*", default=[], choices=tables)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    on_gpu = args.device != "cpu"
    print(f"# Speed, {torch.cuda.get_device_name() if on_gpu else f'{args.threads} thread(s)'}\n")
    print(
        f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"hemp_lightning {hemp_lightning.__version__}, {date.today()}"
    )
    sizes = [int(size) for size in args.sizes]
    how = Steps(args.device, args.batch_size, args.precision)
    skipped = {*args.skip, *(() if args.networks else ("networks", "steps", "parts"))}
    for table, action in (
        ("entropy", lambda: entropy_table(sizes, args.levels, args.device)),
        ("networks", lambda: networks_table(args.networks, args.device)),
        ("lengths", lambda: lengths_table([size for size in sizes if size <= 1e7])),
        ("quantizers", lambda: quantizer_table(args.device)),
        ("steps", lambda: step_table(args.networks, args.pairs, args.rate_model, how)),
        ("parts", lambda: profile_table(args.networks, how)),
    ):
        if table not in skipped:
            action()


if __name__ == "__main__":
    main()
