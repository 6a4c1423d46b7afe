"""SIGKILL at random moments: `python tests/training/test_killed.py 200 20`, writers and trainings.

A file on the disk is the old one or the new one, whole, and a resumed training ends where the
uninterrupted one ends.
"""

from __future__ import annotations

import inspect
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import HEMPCallback, load, save

EPOCHS, BATCHES, SAVED_EVERY = 3, 33, 4
# No checkpoint falls on the last batch of an epoch: resumed from such a one, then from one within
# the next epoch, Lightning 2.6 trains that epoch's batches twice, with our callback and without.
assert not any(BATCHES * epoch % SAVED_EVERY == 0 for epoch in range(1, EPOCHS + 1))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]


def states():
    """Two networks that are told apart by every entry."""
    weights = torch.linspace(-1, 1, 40_000).reshape(200, 200)
    return [{"w": weights, "b": weights[0]}, {"w": weights.flip(0), "b": weights[1]}]


def write(path: Path) -> None:
    """Write one network and the other until killed."""
    while True:
        for state in states():
            save(state, path, num_levels=8)


class Net(LightningModule):
    """Learns the sign of the first number."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch, _):
        time.sleep(0.005)  # so that the kill falls within
        # the step says which images: Lightning starts an epoch's batches anew on resuming
        images = torch.randn(16, 8, generator=torch.Generator().manual_seed(self.global_step))
        return nn.functional.cross_entropy(self.body(images), (images[:, 0] > 0).long())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def train(folder: Path) -> None:
    """Train, from the last checkpoint if there is one, and write `net.hemp`."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.zeros(BATCHES)))
    last = folder / "last.ckpt"
    keep = ModelCheckpoint(
        folder, "last", every_n_train_steps=SAVED_EVERY, save_on_train_epoch_end=False,
        save_top_k=1, enable_version_counter=False,
    )  # fmt: skip
    hemp = HEMPCallback(
        order=2, num_levels=5, lambda_entropy=0.2, warmup_epochs=2, refit_every_n_steps=7,
        path=folder / "net.hemp",
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=EPOCHS, accelerator="cpu", callbacks=[hemp, keep], logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    net = Net()
    # Lightning before 2.6 has no such argument, and unpickles as if it were given
    trusted = "weights_only" in inspect.signature(trainer.fit).parameters
    ours = {"weights_only": False} if trusted else {}
    trainer.fit(net, data, ckpt_path=last if last.exists() else None, **ours)
    torch.save(net.state_dict(), folder / "final.pt")


def kill_writers(kills: int, folder: Path, rng: random.Random) -> None:
    """Kill a writer `kills` times; the file must be one of the two each time."""
    path = folder / "net.hemp"
    wanted = []
    for state in states():
        save(state, path, num_levels=8)
        wanted.append(load(path))
    for number in range(kills):
        child = os.fork()
        if child == 0:
            write(path)
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load(path)
        assert any(all(torch.equal(found[k], w[k]) for k in w) for w in wanted), f"kill {number}"


def kill_trainings(kills: int, folder: Path, rng: random.Random) -> None:
    """Kill and resume a training `kills` times; its end must be that of one left alone."""
    alone, killed = folder / "alone", folder / "killed"
    for each in (alone, killed):
        each.mkdir()

    def stamp(path: Path) -> int:
        return path.stat().st_mtime_ns if path.exists() else 0

    def start(where: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, __file__, "train", str(where)])

    assert start(alone).wait() == 0
    for _ in range(kills):
        process = start(killed)
        before = stamp(killed / "last.ckpt")
        while process.poll() is None and stamp(killed / "last.ckpt") == before:
            time.sleep(0.01)  # killed only once it has trained on, so that it arrives some day
        time.sleep(rng.uniform(0.0, 0.05))
        process.kill()
        process.wait()
    assert start(killed).wait() == 0
    assert (killed / "net.hemp").read_bytes() == (alone / "net.hemp").read_bytes()
    one, other = (torch.load(each / "final.pt", weights_only=True) for each in (alone, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    program = [sys.executable, __file__, "15", "0", str(tmp_path)]
    # in a process of its own: a fork must not inherit threads
    subprocess.run(program, check=True, timeout=300)


def test_a_killed_training_ends_at_the_same_weights(tmp_path):
    kill_trainings(2, tmp_path, random.Random(0))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        train(Path(sys.argv[2]))
    else:
        writers, trainings = int(sys.argv[1]), int(sys.argv[2])
        with tempfile.TemporaryDirectory() as folder:
            if writers:
                kill_writers(writers, Path(folder), random.Random(0))
            if trainings:
                kill_trainings(trainings, Path(folder), random.Random(0))
        print(f"{writers} writers and {trainings} trainings killed")
