"""Two processes on the CPU end with the same network as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

# Rows of the table in docs/compatibility.md, and over how many batches gradients are accumulated.
ROWS = {"DDP on two processes": 1, "DDP with `no_sync` (gradient accumulation)": 2}
SCRIPT = """
import os
import sys
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from hemp_lightning import HEMPCallback

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2))
    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

folder, devices, accumulated = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
net, x = Net(), torch.randn(64, 12)
data = TensorDataset(x, (x[:, 0] > 0).long())
rank = int(os.environ.get("LOCAL_RANK", 0))
sampler = DistributedSampler(data, devices, rank, shuffle=False) if devices > 1 else None
loader = DataLoader(data, batch_size=16 // devices, sampler=sampler)
hemp = HEMPCallback(num_levels=4, lambda_entropy=0.5, path=f"{folder}/{devices}.hemp")
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=3,
    callbacks=[hemp], logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, use_distributed_sampler=False,
    accumulate_grad_batches=accumulated,
)
trainer.fit(net, loader)
levels = {name: book.levels for name, book in hemp.codebooks.items()}
state = {"weights": net.state_dict(), "levels": levels, "wrote": hemp.summary is not None}
torch.save(state, f"{folder}/{devices}-{trainer.global_rank}.pt")
"""


@pytest.mark.parametrize("row", ROWS)
def test_two_processes_agree_and_equal_one(row, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    for devices in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path), devices, str(ROWS[row])],
            capture_output=True,
            text=True,
            timeout=900,
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, first, second = (torch.load(tmp_path / f"{n}.pt") for n in ("1-0", "2-0", "2-1"))
    for group in ("weights", "levels"):
        for name, value in first[group].items():
            assert torch.equal(value, second[group][name]), name
            torch.testing.assert_close(value, one[group][name], atol=1e-6, rtol=1e-6)
    assert first["wrote"] and not second["wrote"]
    assert (tmp_path / "2.hemp").exists()
