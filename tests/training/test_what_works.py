"""The table of what works with what: each row is a case here, and each case a row."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemp_lightning import HEMPCallback, load, load_into

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
_spec = importlib.util.spec_from_file_location(
    "test_distributed", Path(__file__).with_name("test_distributed.py")
)
test_distributed = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(test_distributed)


class Net(LightningModule):
    """Any body on 32 images of 8 x 8."""

    def __init__(self, body: nn.Module | None = None, optimizer=torch.optim.Adam) -> None:
        super().__init__()
        self.body = body or nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)
        )
        self.optimizer = optimizer

    def forward(self, images):
        return self.body(images)

    def training_step(self, batch, _):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return self.optimizer([p for p in self.parameters() if p.requires_grad], lr=1e-2)


class Manual(Net):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, _):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.body[i].parameters(), lr=1e-2) for i in (1, 3)]


class NotFinite(Net):
    """One gradient that is NaN."""

    def training_step(self, batch, number):
        loss = super().training_step(batch, number)
        return loss * float("nan") if number == 1 else loss


class Named(nn.Module):
    """Names that need care."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"größe": nn.Linear(64, 4), "层": nn.Linear(4, 4)})

    def forward(self, images):
        return self.parts["层"](self.parts["größe"](images.flatten(1)))


class Tied(nn.Module):
    """An embedding of pixels that is the output layer too, behind a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 8)
        self.frozen = nn.Linear(64, 8).requires_grad_(False)
        self.output = nn.Linear(8, 4, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, images):
        rows = self.embedding((images.flatten(1)[:, 0] > 0).long())
        return self.output(rows + self.frozen(images.flatten(1)))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 14 * 14, 4),
    )


def compiled():
    """A module within; without a C++ compiler, the graph as it was traced."""
    backend = "inductor" if shutil.which("g++") else "eager"
    return Net(torch.compile(Net().body, backend=backend))


def loss_scaling():
    """What `precision="16-mixed"` makes on a GPU; on a CPU, Lightning falls back to bf16."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


def constant():
    net = Net()
    nn.init.constant_(net.body[1].weight, 0.25)
    net.body[1].weight.requires_grad_(False)
    return net


def broken():
    net = Net()
    net.body[1].weight.data[0, 0] = float("nan")
    return net


# row: (module, options of the Trainer, options of the callback)
CASES = {
    "gradient accumulation": (Net, {"accumulate_grad_batches": 3}, {}),
    "gradient clipping by norm": (Net, {"gradient_clip_val": 0.1}, {}),
    "gradient clipping by value": (
        Net,
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        {},
    ),
    "bf16 autocast": (Net, {"precision": "bf16-mixed"}, {}),
    "fp16 autocast with loss scaling": (Net, {"plugins": loss_scaling}, {}),
    "float64 training": (Net, {"precision": "64-true"}, {}),
    "manual optimization, several optimizers": (Manual, {}, {}),
    "frozen parameters, tied weights": (lambda: Net(Tied()), {}, {}),
    "early stopping": (
        Net,
        {"callbacks": [EarlyStopping("loss", patience=1, min_delta=10.0)]},
        {},
    ),
    "modules of `torch.compile`": (compiled, {}, {}),
    "a `LightningModule` of `torch.compile`": (
        lambda: torch.compile(Net(), backend="eager"),
        {},
        {},
    ),
    "a module of nested names with dots and Unicode": (lambda: Net(Named()), {}, {}),
    "transposed and grouped convolutions": (lambda: Net(convolutions()), {}, {}),
    "a tensor of one value": (constant, {}, {}),
    "a lambda that drives all to 0": (Net, {}, {"lambda_entropy": 1e6}),
    "weight averaging callbacks": (Net, {"callbacks": [StochasticWeightAveraging(1e-2)]}, {}),
    "LBFGS": (lambda: Net(optimizer=torch.optim.LBFGS), {}, {}),
    "a gradient that is not finite": (NotFinite, {}, {}),
    "weights that are not finite": (broken, {}, {}),
    "sharded parameters (FSDP)": (Net, {"sharded": True}, {}),
}


def table():
    text = PAGE.read_text(encoding="utf-8").split("<!-- works -->")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| (.+?) \| (works|refused) \|$", text, re.M))


def test_every_row_is_a_case():
    assert list(table()) == [*CASES, *test_distributed.ROWS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", CASES)
def test_row(row, tmp_path):
    make, options, arguments = CASES[row]
    options = dict(options)
    seed_everything(0, verbose=False)
    net = make()
    path = tmp_path / "net.hemp"
    hemp = HEMPCallback(**{"num_levels": 5, "lambda_entropy": 0.1, "path": path} | arguments)
    if "plugins" in options:
        options["plugins"] = [options["plugins"]()]
    is_sharded = options.pop("sharded", False)
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*options.pop("callbacks", []), hemp],
        **options,
    )
    if is_sharded:  # the strategy itself needs GPUs; the callback goes by its name
        strategy = trainer.strategy
        strategy.__class__ = type("FSDPStrategy", (type(strategy),), {})
    data = DataLoader(TensorDataset(torch.randn(32, 1, 8, 8), torch.arange(32) % 4), batch_size=8)
    if table()[row] == "refused":
        with pytest.raises((ValueError, RuntimeError), match=r"HEMPCallback|finite"):
            trainer.fit(net, data)
        assert not path.exists()
        return
    trainer.fit(net, data)
    net = getattr(net, "_orig_mod", net)
    state = load(path)
    assert list(state) == list(net.state_dict())
    for name, book in hemp.codebooks.items():
        assert torch.isfinite(state[name]).all()
        assert set(state[name].unique().tolist()) <= set(book.levels.tolist()), name
    load_into(make(), path)
