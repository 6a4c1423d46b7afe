"""NNCodec on the pretrained CIFAR ResNets: bytes, accuracy and agreement with the float network.

    python benchmarks/nncodec_points.py --data cifar10-jpeg --checkpoints checkpoints \
        --network resnet20 --output benchmarks/results/calibration/nncodec_resnet20.json

Needs the package `nncodec`, and what it imports without saying so: pandas, opencv-python, ptflops.
`defaults` are the package's own options, `folded` its tools: norms folded, `opt_qp`, rate term 1.
The same training images as in calibration.py, or with `--test` the test split.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibration import images, outputs
from torch import Tensor, nn

from hemp_lightning.suite.baselines.nncodec import folded_norms
from hemp_lightning.suite.models import build
from hemp_lightning.suite.models.checkpoint import load_checkpoint

TOOLS = {"nonweight_qp": -40, "opt_qp": True, "lambda_scale": 1}


def coded(tensors: dict[str, Tensor], **options: Any) -> tuple[int, dict[str, Tensor]]:
    """Bytes of the bitstream, and what comes back out of it."""
    from nncodec import nnc

    arrays = {
        name: np.ascontiguousarray(
            t.float().numpy() if t.is_floating_point() else t.numpy().astype(np.int32)
        )
        for name, t in tensors.items()
    }
    stream = nnc.compress(arrays, bitstream_path=None, return_bitstream=True, **options)
    back = nnc.decompress(stream)
    return len(stream), {
        name: torch.from_numpy(np.array(array)).reshape(tensors[name].shape)
        for name, array in back.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--qp", type=int, nargs="*", default=[-38, -34, -30])
    parser.add_argument("--test", action="store_true", help="read the test split")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    options = parser.parse_args()

    network: nn.Module = build(options.network, 10).eval()
    load_checkpoint(network, options.checkpoints / f"{options.network}_cifar10.safetensors")
    split = ("test", 0, None) if options.test else ("train", 20_000, 2000)
    pixels, labels = images(options.data / split[0], *split[1:])
    wanted = outputs(network, pixels)
    points = []
    for tools in ("defaults", "folded"):
        for qp in options.qp:
            tensors, constants = network.state_dict(), {}
            if tools == "folded":
                tensors, constants = folded_norms(network)
            begin = time.process_time()
            size, back = coded(tensors, qp=qp, **(TOOLS if tools == "folded" else {}))
            seconds = time.process_time() - begin
            decoded = copy.deepcopy(network)
            decoded.load_state_dict({**constants, **back})
            classes = outputs(decoded, pixels).argmax(1)
            points.append(
                {
                    "tools": tools,
                    "qp": qp,
                    "file_bytes": size,
                    "accuracy": (classes == labels).float().mean().item(),
                    "agreement": (classes == wanted.argmax(1)).float().mean().item(),
                    "cpu_seconds": seconds,
                }
            )
    result = {"network": options.network, "split": split[0], "points": points}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
