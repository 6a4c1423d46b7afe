"""Self-distillation: the network learns its own outputs with little entropy in its weights."""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemp_lightning.calibration.candidates import on
from hemp_lightning.calibration.distances import Distance, default_distance
from hemp_lightning.calibration.inputs import BATCH, Call, Inputs
from hemp_lightning.calibration.progress import Progress
from hemp_lightning.file.options import FileOptions
from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.training import HEMPCallback

LEARNING_RATE = 3e-3
PASSES = 120_000
"""Inputs that are seen in training where there is time for it."""

FEWEST_EPOCHS = 4
AIM = 1.01
"""Training aims a little above the wanted bytes, since it lands below its aim by as much."""

LEVELS = ((1.4, 7), (2.3, 15), (3.3, 31), (4.3, 63))
"""Levels of each tensor, up to so many bits per weight; 255 beyond."""


def num_levels_for(bits: float) -> int:
    """Levels to train with for a wanted rate.

    Args:
        bits: Bits per weight.

    Example:
        >>> num_levels_for(1.2), num_levels_for(6.0)
        (7, 255)
    """
    return next((levels for most, levels in LEVELS if bits <= most), 255)


class Distilled(LightningModule):
    """A network that is trained to say what its float copy says.

    Attributes:
        steps: Optimizer steps of the whole training.
    """

    def __init__(
        self, network: nn.Module, teacher: nn.Module, distance: Distance, steps: int
    ) -> None:
        super().__init__()
        self.network = network
        self._distance = distance
        self.steps = steps
        # outside of `modules()`: neither trained nor in the file
        self._teacher = [copy.deepcopy(teacher).eval().requires_grad_(False)]

    def training_step(self, call: Call, _: int) -> Tensor:
        """Distance of the outputs for one batch."""
        call = varied(on(call, self.device))
        with torch.no_grad():
            wanted = call(self._teacher[0])
        return self._distance(call(self.network), wanted)

    def configure_optimizers(self) -> Any:
        """Adam, its rate falling to 0 under half a cosine, whose end may come nearer."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * min(1.0, step / self.steps))) / 2
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def transfer_batch_to_device(self, batch: Call, *_: Any) -> Call:
        """Batches are moved in the step."""
        return batch


class _Batches:
    """Batches in another order each time; Lightning takes it for a loader."""

    def __init__(self, inputs: Inputs, seed: int) -> None:
        self._inputs = inputs
        self._draw = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Call]:
        return self._inputs.batches(BATCH, self._draw)

    def __len__(self) -> int:
        return self._inputs.num_batches(BATCH)


class _Watch(Callback):
    """Moves the bar, and lets training end in time where steps take longer than they did at first.

    Args:
        progress: Is moved on.
        seconds: Time that training may take.
        epochs: How long it is to be where time is no matter.
    """

    def __init__(self, progress: Progress, seconds: float, epochs: int) -> None:
        self._progress = progress
        self._epochs = epochs
        self._begin = progress.seconds
        self._seconds = seconds

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """One step is done."""
        self._progress.step()
        if self._progress.seconds_left < 0:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan fewer epochs: a rate that has fallen to 0 is worth more than steps at a high one."""
        assert isinstance(pl_module, Distilled)
        if self._seconds == math.inf:
            return
        done = trainer.current_epoch + 1
        took = max(1e-6, self._progress.seconds - self._begin)
        more = max(0, int((self._seconds - took) * done / took))
        trainer.fit_loop.max_epochs = epochs = min(self._epochs, done + more)
        pl_module.steps = epochs * int(trainer.num_training_batches)


def varied(call: Call) -> Call:
    """Images shifted by up to an eighth and mirrored, each by itself; anything else as it is.

    An image is a floating tensor `(N, C, H, W)` with 1 or 3 channels and sides of at least 8.
    """

    def change(tensor: Tensor) -> Tensor:
        is_image = tensor.ndim == 4 and tensor.shape[1] in (1, 3) and min(tensor.shape[2:]) >= 8
        if not is_image or not tensor.is_floating_point():
            return tensor
        count, _, height, width = tensor.shape
        mirrored = torch.rand(count, 1, 1, 1, device=tensor.device) < 0.5
        tensor = torch.where(mirrored, tensor.flip(3), tensor)
        most = max(1, min(height, width) // 8)
        padded = nn.functional.pad(tensor, (most,) * 4, mode="constant")
        top, left = torch.randint(0, 2 * most + 1, (2, count), device=tensor.device)
        rows = top[:, None] + torch.arange(height, device=tensor.device)
        columns = left[:, None] + torch.arange(width, device=tensor.device)
        each = torch.arange(count, device=tensor.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(
            0, 3, 1, 2
        )

    return call.map(change)


def distil(
    network: nn.Module,
    teacher: nn.Module,
    inputs: Inputs,
    names: list[str],
    target_bytes: int,
    start: int | Mapping[str, Codebook],
    distance: Distance | None,
    progress: Progress,
    seconds: float,
    seed: int,
) -> dict[str, Codebook]:
    """Train `network`, in place, towards a file of `target_bytes` and the outputs of `teacher`.

    Args:
        network: In float32; its weights become the trained ones, not yet on levels.
        teacher: The float network, whose outputs are wanted.
        inputs: What to train on.
        names: Parameters to quantize.
        target_bytes: Wanted size.
        start: Levels of each tensor, on uniform grids; or codebooks that the weights lie on.
        distance: The user's own loss, or None.
        progress: Is moved on; ends the training when its time is up.
        seconds: Time that training may take: sets the number of epochs.
        seed: Of the order of inputs and their variations.

    Returns:
        Codebooks by name.
    """
    loss = distance or default_distance
    device = next(network.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        pace = _seconds_per_step(network, inputs, loss)
        steps = inputs.num_batches(BATCH)
        wanted = max(FEWEST_EPOCHS, math.ceil(PASSES / max(1, len(inputs))))
        affordable = int(seconds / (pace * steps)) if seconds < math.inf else wanted
        epochs = max(FEWEST_EPOCHS, min(wanted, affordable))
        progress.stage("distil", epochs * steps)
        callback = HEMPCallback(
            quantizer="uniform",
            num_levels=start if isinstance(start, int) else 256,
            rate_model="context",
            refit_every_n_epochs=0,
            lambda_entropy=1.0
            if isinstance(start, int)
            else _price(network, teacher, inputs, loss),
            tensors=names,
            target_bytes=round(AIM * target_bytes),
            module="network",
            file=FileOptions(fold_norms=True, float_dtype="steps"),
        )
        if not isinstance(start, int):
            callback.codebooks = dict(start)  # which stay, as there is no refit
        module = Distilled(network, teacher, loss, epochs * steps)
        _train_norms(network)
        with _quiet(), _interruptible():
            trainer = pl.Trainer(
                accelerator="gpu" if device.type == "cuda" else device.type,
                devices=[device.index or 0] if device.type == "cuda" else 1,
                max_epochs=epochs,
                callbacks=[callback, _Watch(progress, seconds, wanted)],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            trainer.fit(module, train_dataloaders=_Batches(inputs, seed))
        network.to(device).eval()
    return {name: callback.codebooks[name] for name in names}


@torch.no_grad()
def recalibrate(network: nn.Module, inputs: Inputs, seed: int, num_batches: int = 100) -> None:
    """Take the statistics of BatchNorms anew: plain averages over varied batches of `inputs`.

    Args:
        network: With quantized weights in place; left in evaluation mode.
        inputs: What to average over.
        seed: Of the variations.
        num_batches: Batches to average over.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    device = next(network.parameters()).device
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        done = 0
        while done < num_batches:
            for call in inputs.batches(BATCH, draw):
                varied(on(call, device))(network)
                done += 1
                if done >= num_batches:
                    break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _train_norms(network: nn.Module) -> None:
    """Evaluation mode for all but norms: no dropout, whose noise the float network lacks."""
    network.eval()
    for module in network.modules():
        if isinstance(module, (_BatchNorm, nn.RNNBase)) and not getattr(module, "dropout", 0):
            module.train()


@torch.no_grad()
def _price(network: nn.Module, teacher: nn.Module, inputs: Inputs, loss: Distance) -> float:
    """Where lambda starts from rounded weights: a bit costs what rounding cost, at most 1."""
    device = next(network.parameters()).device
    costs = []
    for call in islice(inputs.batches(BATCH), 4):
        own = on(call, device)
        costs.append(float(loss(own(network.eval()), own(teacher.eval()))))
    return min(1.0, max(1e-4, sum(costs) / len(costs)))


def _seconds_per_step(network: nn.Module, inputs: Inputs, loss: Callable[..., Tensor]) -> float:
    """Seconds of a training step, measured on a copy."""
    trial = copy.deepcopy(network)
    _train_norms(trial)
    device = next(trial.parameters()).device
    call = on(next(inputs.batches(BATCH)), device)
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        with torch.no_grad():
            wanted = call(network.eval())
        loss(call(trial), wanted).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return 1.25 * min(times)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning says of its own."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings(
                "ignore", message=".*(num_workers|`isinstance|bytes, more|Lambda is at).*"
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt, of which Lightning makes an exit of the whole program."""
    try:
        handler = signal.getsignal(signal.SIGINT)
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        try:
            signal.signal(signal.SIGINT, handler)
        except ValueError:  # not in the main thread: Lightning did not touch it either
            pass
