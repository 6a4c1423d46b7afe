"""What rounding biases, norms and statistics to steps costs: bytes and accuracy.

    python -m benchmarks.steps --checkpoints CHECKPOINTS --data FOLDER [--models resnet20 ...]

Pretrained CIFAR ResNets, weights quantized to 32 uniform levels after training, everything else
held in float32, in float16, and on steps of three tolerances (the default is 32). Accuracy and the
share of images that get another class than with float32, on the validation split.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import torch

from hemp_lightning import load_into, save
from hemp_lightning.file.format import steps
from hemp_lightning.suite.datasets import ImageFolder
from hemp_lightning.suite.models import build, load_checkpoint

HELD = (("float32", 0), ("float16", 0), ("steps", 8), ("steps", 16), ("steps", 32), ("steps", 64))


@torch.no_grad()
def classes(network: torch.nn.Module, batches: list[torch.Tensor]) -> torch.Tensor:
    """Class of each image."""
    network.eval()
    return torch.cat([network(batch).argmax(1) for batch in batches])


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="image folder with train/, test/")
    parser.add_argument("--cache", type=Path, help="folder for the decoded images")
    parser.add_argument("--models", nargs="*", default=["resnet20"])
    arguments = parser.parse_args()
    data = ImageFolder(root=str(arguments.data), cache=arguments.cache)
    data.setup()
    loaded = list(data.val_dataloader())
    images, labels = [b[0] for b in loaded], torch.cat([b[1] for b in loaded])
    print(f"{len(labels)} images.\n")
    print("| network | held | file bytes | accuracy | other class |\n|---|---|---:|---:|---:|")
    for name in arguments.models:
        path = arguments.checkpoints / f"{name}_cifar10.safetensors"
        network = load_checkpoint(build(name), path)
        exact = None
        for held, tolerance in HELD:
            with (
                tempfile.TemporaryDirectory() as folder,
                mock.patch.object(steps, "TOLERANCE", tolerance or steps.TOLERANCE),
                mock.patch.object(steps, "_KEPT", max(tolerance, 1).bit_length() - 1),
            ):
                file = Path(folder) / "x.hemp"
                options = {"num_levels": 32, "quantizer": "uniform", "float_dtype": held}
                size = save(network, file, **options).file_bytes
                found = classes(load_into(build(name), file), images)
            exact = found if exact is None else exact
            accuracy = float((found == labels).float().mean())
            other = float((found != exact).float().mean())
            label = f"{held}, 1/{tolerance}" if tolerance else held
            print(f"| {name} | {label} | {size:,} | {accuracy:.4f} | {other:.4f} |", flush=True)


if __name__ == "__main__":
    main()
