"""Methods of the suite that write a file: what they write, and what they leave behind."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning
import pytest
import torch

from hemp_lightning import load
from hemp_lightning.suite.baselines import LSQ, DeepCompression, PostTraining
from hemp_lightning.suite.classifier import Classifier
from hemp_lightning.suite.datasets import Arrays, InMemory
from hemp_lightning.suite.models import build


class Noise(InMemory):
    """100 images of 1x6x6, three classes."""

    def read(self) -> Arrays:
        images = torch.randint(0, 255, (100, 1, 6, 6), generator=torch.Generator().manual_seed(0))
        labels = torch.arange(100) % 3
        images = images.to(torch.uint8)
        return Arrays(images, labels, images[:30], labels[:30])


@pytest.mark.parametrize(
    ("kind", "options", "levels"),
    [(PostTraining, {"num_levels": 4}, 4), (LSQ, {"bits": 2, "first_last_bits": 3}, 4),
     (DeepCompression, {"bits": 2, "share": 0.5}, 4)],
)  # fmt: skip
def test_the_file_has_few_levels_and_the_network_is_left_whole(
    tmp_path: Path, kind: type, options: dict, levels: int
) -> None:
    lightning.seed_everything(0, verbose=False)
    method = kind(tmp_path / "net.hemp", **options)
    network = build("lenet300", 3, 1, 6)
    module = Classifier(network, 3, partial(torch.optim.Adam, lr=1e-3))
    seen: list[int] = []
    network.fc2.register_forward_hook(lambda layer, *_: seen.append(len(layer.weight.unique())))
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[method], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=Noise(batch_size=20))
    assert len(load(method.path)["fc2.weight"].unique()) <= levels
    assert method.summary.file_bytes == method.path.stat().st_size
    assert (min(seen) <= levels) == (kind is not PostTraining)
    assert not any(part._forward_pre_hooks for part in module.modules())
    assert isinstance(network.fc2.weight, torch.nn.Parameter)
    if kind is LSQ:
        assert len(network.fc2.weight.unique()) > levels
