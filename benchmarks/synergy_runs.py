"""Train what the page of HEMP with pruning and quantization compares, and keep its results files.

    python benchmarks/synergy_runs.py lenet300_mnist DATA --runs runs/synergy --seeds 0 1 2
    python benchmarks/synergy.py                       # tables, picture and sentence from them

What is done is skipped, so it can be stopped and called again; `--minutes` stops it by itself, with
exit code 3. `--list` prints the commands and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "synergy"
NOT_DONE = 3


@dataclass(frozen=True)
class Row:
    """A way to a small file: what is typed, and the setting whose values make its curve.

    Attributes:
        words: Beside those of the network.
        setting: Its name, such as `hemp.lambda_entropy`; empty for a single run.
        values: What it is set to.
        first: A training before it, in half of the epochs, whose network it starts from.
    """

    words: str
    setting: str = ""
    values: tuple[str, ...] = ("",)
    first: str = ""


@dataclass(frozen=True)
class Plan:
    """The runs of a network.

    Attributes:
        network: Words that all its runs begin with; DATA stands for the folder of datasets.
        float_epochs: Epochs of plain training, once a seed, that all methods start from.
        epochs: Epochs of every method.
        rows: By key, in the order of the table.
    """

    network: str
    float_epochs: int
    epochs: int
    rows: dict[str, Row] = field(default_factory=dict)


def rows(
    lambdas: Sequence[str], shares: Sequence[str], units: Sequence[str], lobster: str
) -> dict[str, Row]:
    """The rows of a network.

    Args:
        lambdas: Values of `hemp.lambda_entropy`.
        shares: Values of `pruning.share` for single weights.
        units: Values of `pruning.share` for filters and hidden units.
        lobster: Words of LOBSTER, its tolerance aside.
    """
    term, plain = "hemp.lambda_entropy", "hemp=none"
    share, half = shares[len(shares) // 2], units[len(units) // 2]
    magnitude = f"pruning=magnitude_gradual pruning.share={share}"
    filters = f"pruning=filters pruning.share={half}"
    entropy, tolerant = tuple(lambdas), f"{lobster} pruning.tolerance=0.5"
    lsq = "quantization=lsq quantization.first_last_bits=${quantization.bits}"
    return {
        "float": Row(plain),
        "hemp": Row("", term, entropy),
        "lsq": Row(lsq, "quantization.bits", ("2", "3", "4")),
        "hemp_lsq": Row(f"{lsq} hemp=default quantization.bits=3", term, entropy),
        "magnitude": Row(f"{plain} pruning=magnitude_gradual", "pruning.share", tuple(shares)),
        "hemp_magnitude": Row(magnitude, term, entropy),
        "lobster": Row(f"{plain} {lobster}", "pruning.tolerance", ("0.1", "0.5", "1")),
        "hemp_lobster": Row(tolerant, term, entropy),
        "lobster_then_hemp": Row("pruning=keep_zeros", term, entropy, f"{plain} {tolerant}"),
        "hemp_then_lobster": Row(f"{tolerant} pruning.start_epoch=HALF", term, entropy),
        "filters": Row(f"{plain} pruning=filters", "pruning.share", tuple(units)),
        "hemp_filters": Row(filters, term, entropy),
    }


LOBSTER = "pruning=lobster pruning.lambda_decay=0.001"
PLANS = {
    "lenet300_mnist": Plan(
        "model=lenet300 dataset=mnist dataset.root=DATA hemp.refit_every_n_epochs=0",
        float_epochs=8,
        epochs=20,
        rows=rows(("0.4", "0.8", "2"), ("0.9", "0.95", "0.98"), ("0.3", "0.5", "0.7"), LOBSTER),
    ),
    "lenet5_mnist": Plan(
        "model=lenet5 dataset=mnist dataset.root=DATA trainer.precision=bf16-mixed "
        "channels_last=true",
        float_epochs=5,
        epochs=10,
        rows=rows(("0.4", "1", "2"), ("0.9", "0.95", "0.98"), ("0.3", "0.5", "0.7"), LOBSTER),
    ),
}


@dataclass(frozen=True)
class Run:
    """One training: its name, its words, and the name of the training that it starts from."""

    name: str
    words: tuple[str, ...]
    start: str = ""


def runs(plan: Plan, seed: int) -> Iterator[Run]:
    """All trainings of a plan and a seed, each after the one that it starts from."""
    base = (*plan.network.split(), f"seed={seed}")
    floating, half = f"start_seed{seed}", plan.epochs // 2
    words = ("hemp=none", f"float_epochs={plan.float_epochs}", "epochs=0")
    yield Run(floating, (*_known(base, words), *words))
    for key, row in plan.rows.items():
        epochs, start = plan.epochs, floating
        if row.first:
            start, epochs = f"{key}_first_seed{seed}", plan.epochs - half
            typed = (*row.first.split(), "float_epochs=0", f"epochs={half}")
            yield Run(start, (*_known(base, typed), *typed), floating)
        for value in row.values:
            own = row.words.replace("HALF", str(half)).split()
            own += [f"{row.setting}={value}"] if row.setting else []
            typed = (*own, "float_epochs=0", f"epochs={epochs}")
            name = f"{key}_{value}_seed{seed}" if value else f"{key}_seed{seed}"
            yield Run(name, (*_known(base, typed), *typed), start)


def _known(base: Sequence[str], typed: Sequence[str]) -> tuple[str, ...]:
    """The words of a network; without those of HEMP, where there is none to take them."""
    switched = "hemp=none" in typed or ("quantization=lsq" in typed and "hemp=default" not in typed)
    return tuple(word for word in base if not (switched and word.startswith("hemp.")))


def train(run: Run, folder: Path, data: str) -> None:
    """Train in this process, as `python run.py` does, and keep the run folder."""
    import omegaconf
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from hemp_lightning.suite import command
    from hemp_lightning.suite.words import CONF, prepared

    words = [word.replace("=DATA", f"={data}") for word in run.words]
    if run.start:
        words.append(f"model.checkpoint={folder / run.start / 'checkpoints' / 'last.ckpt'}")
    words += ["~callbacks.progress_bar", "~callbacks.learning_rate", "logger=none"]
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    ready = [*prepared(words), f"hydra.runtime.output_dir={place}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ready, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with omegaconf.open_dict(config):
        del config["hydra"]
    command.run(config, place)


def keep(run: Run, folder: Path, network: str) -> None:
    """Keep the results file beside the others, with the words that anybody can type."""
    found = json.loads((folder / run.name / "results.json").read_text())
    start = [f"model.checkpoint={run.start}/checkpoints/last.ckpt"] if run.start else []
    found["overrides"] = [*run.words, *start]
    del found["config_hash"]  # of paths too
    target = RESULTS / network / f"{run.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        3 if the minutes were over before all was done, else 0.
    """
    parser = argparse.ArgumentParser(description="Runs of HEMP with pruning and quantization.")
    parser.add_argument("network", choices=sorted(PLANS))
    parser.add_argument("data", help="folder of the datasets")
    parser.add_argument("--runs", type=Path, default=Path("runs/synergy"), help="run folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", help="these rows alone")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--list", action="store_true", help="print the commands")
    options = parser.parse_args(arguments)
    begin, plan = time.monotonic(), PLANS[options.network]
    folder = options.runs.resolve() / options.network
    if options.rows:
        plan = Plan(
            plan.network,
            plan.float_epochs,
            plan.epochs,
            {key: plan.rows[key] for key in options.rows},
        )
    for seed in options.seeds:
        for run in runs(plan, seed):
            start = f" model.checkpoint={run.start}/checkpoints/last.ckpt" if run.start else ""
            if options.list:
                print(f"python run.py {shlex.join(run.words)}{start} hydra.run.dir={run.name}")
                continue
            if not (folder / run.name / "results.json").is_file():
                if time.monotonic() - begin > 60 * options.minutes:
                    return NOT_DONE
                print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
                train(run, folder, options.data)
            keep(run, folder, options.network)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
