"""The fixed corpus of index sets that coders are compared on.

Pretrained CIFAR ResNets quantized after training at 4, 8, 16 and 64 levels, uniform and Lloyd-Max,
dense and with nine tenths of each tensor's weights pruned; networks that this project trained with
the entropy term at orders 1 to 3 and several lambdas, convolutions and linear layers
(`benchmarks/corpus`, `benchmarks/results/*/model.hemp`); random and tiny tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from hemp_lightning.file.load import _contents
from hemp_lightning.quantization.quantizers import get_quantizer
from hemp_reader.format.files import opened

HERE = Path(__file__).parent
NUM_LEVELS = (4, 8, 16, 64)


class IndexSet(NamedTuple):
    """Tensors of indices, each with its number of levels; `random` if nothing can be learned."""

    name: str
    tensors: list[tuple[np.ndarray, int]]
    random: bool = False

    @property
    def num_weights(self) -> int:
        """Weights of all tensors."""
        return sum(indices.size for indices, _ in self.tensors)


def index_sets(checkpoints: Path | None, more: list[Path]) -> Iterator[IndexSet]:
    """All sets: of the checkpoints in a folder, the ones at hand, those of more `.npz` files."""
    paths = sorted(checkpoints.glob("*.safetensors")) if checkpoints is not None else []
    for path in paths:
        network = path.stem.split("_")[0]
        for quantizer in ("uniform", "lloyd_max"):
            for num_levels in NUM_LEVELS:
                tensors = quantized(path, quantizer, num_levels)
                yield IndexSet(f"{network} {quantizer} {num_levels}", tensors)
        for num_levels in NUM_LEVELS:
            tensors = quantized(path, "uniform", num_levels, kept=0.1)
            yield IndexSet(f"{network} pruned {num_levels}", tensors)
    for path in [*sorted((HERE / "corpus").glob("*.npz")), *more]:
        yield IndexSet(path.stem, stored(path))
    for path in sorted((HERE / "corpus").glob("*.hemp")):
        yield IndexSet(path.stem, written(path))
    for path in sorted((HERE / "results").glob("*/model.hemp")):
        yield IndexSet(f"{path.parent.name}/model.hemp", written(path))
    yield from random_sets()
    rng = np.random.default_rng(0)
    tiny = [(np.where(rng.random(n) < 0.1, 5, 3), 7) for n in (10, 20, 50, 500)]
    yield IndexSet("tiny", [*tiny, (np.full(10, 3), 7)])


def random_sets() -> Iterator[IndexSet]:
    """Independent indices, dense and sparse, as a convolution and as a linear layer."""
    rng = np.random.default_rng(0)
    yield IndexSet("random uniform", [(rng.integers(0, 16, (400, 500)), 16)], True)
    yield IndexSet("random binomial", [(rng.binomial(6, 0.1, (64, 64, 7, 7)), 7)], True)
    edges = np.linspace(-4, 4, 63)
    laplace = np.searchsorted(edges, rng.laplace(0, 0.7, (128, 128, 3, 3)))
    yield IndexSet("random Laplace", [(laplace, 64)], True)
    sparse = np.where(rng.random((500, 800)) < 0.02, rng.integers(0, 7, (500, 800)), 3)
    yield IndexSet("random sparse", [(sparse, 7)], True)


def quantized(
    path: Path, quantizer: str, num_levels: int, kept: float = 1.0
) -> list[tuple[np.ndarray, int]]:
    """Indices of all weights with two or more axes, a codebook for each tensor.

    Of each tensor the share `kept` with the largest magnitudes stays, the others become 0; there
    are as many levels on both sides of it then, and one fewer in all.
    """
    tensors = []
    for array in load_file(path).values():
        if array.ndim < 2:
            continue
        if kept < 1:
            least = np.quantile(np.abs(array), 1 - kept)
            step = np.abs(array).max() / (num_levels // 2 - 0.5)
            indices = np.rint(np.where(np.abs(array) < least, 0, array) / step)
            indices = np.clip(indices, 1 - num_levels // 2, num_levels // 2 - 1) + num_levels // 2
            tensors.append((indices.astype(np.uint8) - np.uint8(1), num_levels - 1))
        else:
            weights = torch.from_numpy(array.astype(np.float32))
            codebook = get_quantizer(quantizer, num_levels).fit(weights)
            tensors.append((codebook.assign(weights).numpy().astype(np.uint8), num_levels))
    return tensors


def stored(path: Path) -> list[tuple[np.ndarray, int]]:
    """Indices from an `.npz` file: arrays by any name, and `num_levels`."""
    with np.load(path) as file:
        arrays = [file[name] for name in file.files if name != "num_levels"]
        return [(array, int(file["num_levels"])) for array in arrays]


def written(path: Path) -> list[tuple[np.ndarray, int]]:
    """Indices of the quantized tensors of a `.hemp` file that have more than one level."""
    with opened(path) as file:
        contents = [c for c in _contents(file) if c.record.num_levels > 1]
        return [(content.indices(), content.record.num_levels) for content in contents]
