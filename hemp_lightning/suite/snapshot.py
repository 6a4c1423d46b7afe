"""What a run keeps of itself: the float network, its settings, and random numbers by epoch."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from hemp_lightning.suite.baselines.weights import network_of

_log = logging.getLogger(__name__)

_AFTER = 10**6  # the epoch that counts once training has ended
_DRAWING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@runtime_checkable
class Learner(Protocol):
    """A task that can learn from the float network, as `Classifier` does by distillation."""

    def learn_from(self, state: Mapping[str, Tensor]) -> None:
        """Begin to learn from the network whose state dict is given."""
        ...


class FloatSnapshot(Callback):
    """Keep a copy of the network as it is where the compression method sets in.

    From then on a distilled network learns from the copy. This callback stands first in the list.

    Args:
        start_epoch: Epoch before which the copy is taken; if training ends earlier, at its end.
        settings: Settings of the run by their full names, kept in its checkpoints.
    """

    def __init__(self, start_epoch: int, settings: Mapping[str, Any] | None = None) -> None:
        self.start_epoch = start_epoch
        self.settings = dict(settings or {})
        self.state: dict[str, Tensor] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the copy before a method that sets in here changes the weights."""
        self._take(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A run resumed after the last batch of an epoch skips `on_train_epoch_start`."""
        self._take(trainer, pl_module)

    def _take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.state is None and trainer.current_epoch >= self.start_epoch:
            self.state = _copy(network_of(pl_module))
        if self.state is not None and isinstance(pl_module, Learner):
            pl_module.learn_from(self.state)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the copy now if it was never taken."""
        if self.state is None:
            self.state = _copy(network_of(pl_module))

    on_fit_end = on_train_end  # comes alone where there is nothing to train

    def state_dict(self) -> dict[str, Any]:
        """The copy goes into checkpoints, so that a resumed run still has it."""
        return {"state": self.state, "settings": self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the copy from a checkpoint."""
        self.state = state_dict["state"]


class EpochSeeds(Callback):
    """Draw the random numbers of each epoch from the seed of the run and the epoch alone.

    A resumed run then shuffles, augments and drops out as the uninterrupted run does. This holds
    for loaders of anybody: `watch` gives them generators. Resumed within an epoch, the loader is
    brought to the batch of the checkpoint first, by drawing the batches before it.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: list[Generator] = []
        self._kept: RandomState | None = None  # of the checkpoint that is gone on from

    def watch(self, datamodule: LightningDataModule) -> None:
        """Give the training loaders of `datamodule` generators that follow the epoch."""
        ask = datamodule.train_dataloader

        def train_dataloader() -> Any:
            loaders = ask()
            self._generators = [
                generator for loader in _loaders(loaders) for generator in _draw_apart(loader)
            ]
            if datamodule.trainer is not None:
                self._start(_epoch(datamodule.trainer), everything=False)
            return loaders

        # Lightning calls the method of the instance; its class stays as it is
        datamodule.train_dataloader = train_dataloader  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run resumed after the last batch of an epoch skips `on_train_epoch_start`."""
        self._start(_epoch(trainer), rank=trainer.global_rank)
        kept, self._kept = self._kept, None
        if kept is None:
            return
        loop: Any = trainer.fit_loop
        iter(loop._data_fetcher)  # workers may have begun with the numbers of another epoch
        done = loop.epoch_loop.batch_progress.current.ready
        if not 0 < done < trainer.num_training_batches:
            return
        _log.info("resumed within an epoch: its first %d batches are drawn, not trained", done)
        for _ in range(done):
            next(loop._data_fetcher.iterator)
        if trainer.world_size > 1:
            _log.warning(
                "resumed within an epoch on %d devices: what is drawn at random from here on, as "
                "by dropout, differs from a run without an interruption",
                trainer.world_size,
            )
        else:
            kept.restore()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each epoch has its own numbers."""
        self._start(_epoch(trainer), rank=trainer.global_rank)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Statistics are taken anew on the same batches, resumed or not."""
        self._start(_AFTER)

    on_fit_end = on_train_end  # comes alone where there is nothing to train

    def state_dict(self) -> dict[str, Any]:
        """Where the random numbers are now, within an epoch."""
        return {"random": asdict(RandomState.now())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._kept = RandomState(**state_dict["random"])

    def _start(self, epoch: int, rank: int = 0, everything: bool = True) -> None:
        for place, generator in enumerate(self._generators):
            generator.manual_seed(mixed(self.seed, epoch, 1 + place))
        if everything:
            number = mixed(self.seed, epoch, -1 - rank)
            torch.manual_seed(number)
            random.seed(number)
            np.random.seed(number % 2**32)


@dataclass(frozen=True)
class RandomState:
    """Where the generators of torch, NumPy and Python are, in what a checkpoint may hold.

    Attributes:
        torch: State of torch's generator on the CPU.
        cuda: States of those on GPUs.
        numpy: State of NumPy's global generator; its key is a tensor.
        python: State of Python's.

    Example:
        >>> state = RandomState.now()
        >>> first = random.random()
        >>> state.restore()
        >>> random.random() == first
        True
    """

    torch: Tensor
    cuda: list[Tensor]
    numpy: tuple[Any, ...]
    python: tuple[Any, ...]

    @classmethod
    def now(cls) -> RandomState:
        """Where they are now."""
        name, key, *rest = np.random.get_state(legacy=True)
        words = torch.from_numpy(np.asarray(key).astype(np.int64))
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(torch.get_rng_state(), cuda, (name, words, *rest), random.getstate())

    def restore(self) -> None:
        """Put them back there."""
        torch.set_rng_state(self.torch)
        if torch.cuda.is_available() and len(self.cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self.cuda)
        name, words, *rest = self.numpy
        np.random.set_state((name, words.numpy().astype(np.uint32), *rest))
        random.setstate(self.python)


def mixed(*numbers: int) -> int:
    """One seed from several numbers, from 0 to 2 ** 63 - 1.

    Example:
        >>> mixed(0, 1) == mixed(0, 1), mixed(0, 1) == mixed(1, 0)
        (True, False)
    """
    words = np.random.SeedSequence([number % 2**32 for number in numbers]).generate_state(2)
    return (int(words[0]) << 31) ^ int(words[1])


def _epoch(trainer: Trainer) -> int:
    """The epoch that is trained now or next; `current_epoch` lags behind after a resume."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return progress.processed


def _loaders(found: Any) -> Iterator[DataLoader[Any]]:
    if isinstance(found, DataLoader):
        yield found
    elif isinstance(found, Mapping):
        for loader in found.values():
            yield from _loaders(loader)
    elif isinstance(found, (list, tuple)):
        for loader in found:
            yield from _loaders(loader)


def _draw_apart(loader: DataLoader[Any]) -> list[Generator]:
    """Generators for the workers of a loader and for its order."""
    loader.generator = Generator()
    # workers that live on go on in their random numbers; DataLoader refuses to be told so later
    loader.__dict__["persistent_workers"] = False
    if isinstance(loader.sampler, _DRAWING):
        loader.sampler.generator = Generator()
        return [loader.generator, loader.sampler.generator]
    return [loader.generator]


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
