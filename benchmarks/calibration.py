"""`compress` on the pretrained CIFAR ResNets: bytes, accuracy and time of a point.

    python benchmarks/calibration.py --data cifar10-jpeg --checkpoints checkpoints \
        --network resnet20 --target-bytes 40000 --output benchmarks/results/calibration/a.json

`--data` holds `train/<class>/*.jpg` and `test/<class>/*.jpg`. Calibration inputs are training
images without their labels. Accuracy is read on other training images, or, with `--test`, once on
the test split.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.io import read_image

from hemp_lightning import compress, load_into
from hemp_lightning.suite.models import build
from hemp_lightning.suite.models.checkpoint import load_checkpoint

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def images(folder: Path, first: int, count: int | None) -> tuple[Tensor, Tensor]:
    """`count` images of each split from `first` on, in one fixed order, and their classes."""
    names = sorted(entry.name for entry in folder.iterdir())
    files = [
        (path, k) for k, name in enumerate(names) for path in sorted((folder / name).iterdir())
    ]
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(1)).tolist()
    last = None if count is None else first + count
    chosen = [files[place] for place in order[first:last]]
    pixels = torch.stack([read_image(str(path)) for path, _ in chosen]).float() / 255
    return (pixels - MEAN) / DEVIATION, torch.tensor([label for _, label in chosen])


@torch.no_grad()
def outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Scores in evaluation mode."""
    return torch.cat([network.eval()(part) for part in inputs.split(250)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--target-bytes", type=int)
    parser.add_argument("--max-drop", type=float)
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--stages", nargs="*", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", action="store_true", help="read the test split")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    options = parser.parse_args()

    network = build(options.network, 10)
    file = options.checkpoints / f"{options.network}_cifar10.safetensors"
    load_checkpoint(network, file)
    inputs = images(options.data / "train", 0, options.inputs)[0] if options.inputs else None
    if options.test:
        pixels, labels = images(options.data / "test", 0, None)
    else:
        pixels, labels = images(options.data / "train", 20_000, 2000)
    extra = {} if options.stages is None else {"stages": options.stages}
    begin, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        summary = compress(
            network, Path(folder) / "model.hemp", inputs, target_bytes=options.target_bytes,
            max_drop=options.max_drop, time_limit=options.time_limit, seed=options.seed, **extra,
        )  # fmt: skip
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        wanted = outputs(network, pixels)
        found = outputs(load_into(network, Path(folder) / "model.hemp"), pixels)
    result = {
        "network": options.network,
        "inputs": options.inputs,
        "target_bytes": options.target_bytes,
        "max_drop": options.max_drop,
        "stages": options.stages,
        "seed": options.seed,
        "split": "test" if options.test else "train",
        "file_bytes": summary.file_bytes,
        "stage": summary.stage,
        "float_accuracy": (wanted.argmax(1) == labels).float().mean().item(),
        "accuracy": (found.argmax(1) == labels).float().mean().item(),
        "agreement": (found.argmax(1) == wanted.argmax(1)).float().mean().item(),
        "drop": summary.drop,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "each_stage": [vars(stage) for stage in summary.stages],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
