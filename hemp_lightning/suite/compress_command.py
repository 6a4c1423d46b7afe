"""`hemp compress` with a network: the code it comes from, the inputs it sees, what came of it."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hemp_lightning.calibration import CompressSummary
from hemp_lightning.file.checkpoints import read_checkpoint, without_prefix
from hemp_lightning.file.state import Deferred
from hemp_lightning.suite.named_models import named_networks
from hemp_reader.errors import listed

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What images of a folder are normalized with: the means and deviations of ImageNet; grey ones with
the averages of these."""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def read_network(model: str, checkpoint: str, key: str | None) -> nn.Module:
    """The network of `--model` with the tensors of a checkpoint.

    Args:
        model: `package.module:build`, whose `build()` returns a module; or a name of the zoo,
            torchvision, timm or transformers, see `named_networks`.
        checkpoint: See `read_checkpoint`.
        key: Where the tensors stand in it.

    Raises:
        ValueError: If there is no such model, or the checkpoint does not fit it.
    """
    tensors = {
        name: tensor.read() if isinstance(tensor, Deferred) else tensor
        for name, tensor in read_checkpoint(checkpoint, key).tensors.items()
    }
    found: list[str] = []
    networks: Iterable[nn.Module] = (
        [_imported(model)]
        if ":" in model
        else named_networks(model, tensors, Path(checkpoint).parent)
    )
    for network in networks:
        prefix = without_prefix(list(tensors), list(network.state_dict()))
        own = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
        reason = _misfit(network, own, model)
        if not reason:
            return _filled(network, own)
        found.append(reason)
    raise ValueError(f"`checkpoint` must fit --model {model}; {found[0]}")


def _misfit(network: nn.Module, tensors: Mapping[str, Tensor], model: str) -> str:
    """Why a checkpoint does not fit a network; empty if it does."""
    own = network.state_dict()
    shared = _shared(network)
    missing = [
        name for name in own
        if name not in tensors
        and not name.endswith("num_batches_tracked")
        and not any(other in tensors for other in shared.get(name, ()))
    ]  # fmt: skip
    unexpected = [name for name in tensors if name not in own]
    shapes = [n for n in own if n in tensors and tensors[n].shape != own[n].shape]
    for word, names in (("lacks", missing), ("has no", unexpected), ("differs in", shapes)):
        if names:
            whose = "`checkpoint`" if word != "has no" else f"the network of {model}"
            return f"{whose} {word} {listed(names)}"
    return ""


def _shared(network: nn.Module) -> dict[str, list[str]]:
    """Names of the same parameter, for parameters with several: tied heads stand once in files."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def _filled(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network with the tensors of a checkpoint, in their dtypes."""
    network.load_state_dict(tensors, strict=False)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name in tensors:  # a checkpoint in half precision stays one
            tensor.data = tensor.data.to(tensors[name].dtype)
    return network


def read_data(
    path: str, network: nn.Module, image_size: int | None = None
) -> Tensor | Iterator[Tensor] | list[Mapping[str, Tensor]]:
    """Inputs from a `.npy` or `.safetensors` file, or from a folder of images.

    Tensors of a `.safetensors` file are passed by their names where there are several. Images are
    scaled to 0 to 1 and normalized with `MEAN` and `DEVIATION`.

    Args:
        path: The file or the folder.
        network: Gets grey images where its first convolution takes one channel.
        image_size: Pixels to which the shorter side of each image is scaled before the square in
            its middle is cut out; None to take images as they are.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is of another kind.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"--inputs must exist; found nothing at {path}")
    if file.is_dir():
        return _images(file, 1 if _takes_grey(network) else 3, image_size)
    if file.suffix == ".npy":
        return torch.from_numpy(np.load(file, allow_pickle=False))
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(file)
        return next(iter(tensors.values())) if len(tensors) == 1 else [tensors]
    raise ValueError(
        f"--inputs must be a folder of images, a .npy or a .safetensors file; found {path}"
    )


def seconds_of(words: str) -> float:
    """Seconds of a time such as `90`, `90s`, `5m` or `1h`.

    Raises:
        ValueError: If it is none.

    Example:
        >>> seconds_of("5m"), seconds_of("1.5h")
        (300.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", words.strip())
    if not found:
        raise ValueError(f"--time-limit must be a time such as 90s, 5m or 1h; found {words!r}")
    return float(found[1]) * _UNITS[found[2]]


def table(summary: CompressSummary) -> list[str]:
    """One line for each quantized tensor: its bits per weight, relative error and bytes."""
    rows = [("tensor", "bits", "error", "bytes")]
    rows += [
        (t.name, f"{8 * t.bytes / max(1, t.num_entries):.3f}", f"{summary.errors[t.name]:.4f}",
         f"{t.bytes:,}")
        for t in summary.tensors if t.name in summary.errors
    ]  # fmt: skip
    width = max(len(row[0]) for row in rows)
    lines = [f"{name:<{width}}  {b:>7}  {e:>7}  {n:>11}" for name, b, e, n in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def sizes(summary: CompressSummary, network: nn.Module) -> list[str]:
    """The file beside the float network, and its quality."""
    lines = [
        f"file         {summary.file_bytes:>13,} bytes, by stage {summary.stage!r}",
        f"float model  {summary.float_bytes:>13,} bytes, {summary.compression_ratio:.1f} times",
    ]
    packed = zstd_bytes(network)
    if packed is not None:
        lines.append(
            f"zstd         {packed:>13,} bytes of the same as .safetensors, "
            f"{packed / summary.file_bytes:.1f} times"
        )
    if summary.drop is None:
        lines.append(
            "quality      not measured. Give --inputs, some of what the network is used on, to see "
            "how many outputs stay"
        )
    else:
        lines.append(
            f"quality      {summary.drop:.4f} disagreement with the float network on "
            f"{summary.held_back} inputs held back"
        )
    return lines


def zstd_bytes(network: nn.Module) -> int | None:
    """Bytes of the network as `.safetensors` with zstandard; None without that package."""
    try:
        zstandard = importlib.import_module("zstandard")
    except ModuleNotFoundError:
        return None
    from safetensors.torch import save_model

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_model(network, os.fspath(file))
        return len(zstandard.ZstdCompressor(level=19).compress(file.read_bytes()))


def write_report(path: str, summary: CompressSummary, network: nn.Module) -> None:
    """Write what the table says, and more, as JSON."""
    report = {
        "file_bytes": summary.file_bytes,
        "float_bytes": summary.float_bytes,
        "zstd_bytes": zstd_bytes(network),
        "stage": summary.stage,
        "drop": summary.drop,
        "held_back": summary.held_back,
        "stages": [vars(stage) for stage in summary.stages],
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                "num_levels": tensor.num_levels,
                "bytes": tensor.bytes,
                "bits_per_weight": 8 * tensor.bytes / max(1, tensor.num_entries),
                "relative_error": summary.errors.get(tensor.name),
            }
            for tensor in summary.tensors
        ],
    }
    Path(path).write_text(json.dumps(report, indent=2) + "\n")


def _imported(model: str) -> nn.Module:
    module, _, name = model.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        network = found() if callable(found) and not isinstance(found, nn.Module) else found
    except Exception as error:  # the user's own code may raise anything
        raise ValueError(
            f"--model must be package.module:build with a `build()` that returns a module; found "
            f"{model}, at which Python says: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"--model must return a module; found {type(network).__name__} from {model}"
        )
    return network


def _takes_grey(network: nn.Module) -> bool:
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return first is not None and first.in_channels == 1


def _images(folder: Path, channels: int, image_size: int | None) -> Iterator[Tensor]:
    """Batches of 64 normalized images `(N, channels, height, width)`, in an order drawn once."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise ValueError("--inputs with images needs the package pillow; install it") from None
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not paths:
        raise ValueError(f"--inputs must hold images ({', '.join(IMAGES)}); found none in {folder}")
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    if channels == 1:
        mean, deviation = mean.mean(keepdims=True), deviation.mean(keepdims=True)

    def read(path: Path) -> Tensor:
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB" if channels == 3 else "L")
        except OSError as error:
            raise ValueError(f"--inputs must hold whole images; {path}: {error}") from error
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
        elif image.size != size:
            raise ValueError(
                f"--inputs must hold images of one size; found {size[0]}x{size[1]} in {paths[0]} "
                f"and {image.size[0]}x{image.size[1]} in {path}. Give --image-size N"
            )
        pixels = np.asarray(image, np.float32).reshape(*image.size[::-1], channels) / 255
        return torch.from_numpy((pixels - mean) / deviation).permute(2, 0, 1)

    with Image.open(paths[0]) as first:
        size = first.size
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, len(order), 64):
        yield torch.stack([read(paths[i]) for i in order[start : start + 64]])
