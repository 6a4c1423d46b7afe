"""The table of what works with what: each row is a case here, and each case a row."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelPruning, StochasticWeightAveraging
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


class InSetup(Net):
    """Built when the trainer is there."""

    def __init__(self) -> None:
        super().__init__()
        del self.body

    def setup(self, stage):
        if not hasattr(self, "body"):
            self.body = Net().body


class InConfigureModel(Net):
    """Built later still."""

    def __init__(self) -> None:
        super().__init__()
        self.body = None

    def configure_model(self):
        if self.body is None:
            self.body = Net().body


class NewLayers(Net):
    """A layer set anew before training, a parameter set anew during it."""

    def setup(self, stage):
        self.body[3] = nn.Linear(8, 4)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.body[1].weight = nn.Parameter(self.body[1].weight.detach() + 1)
            self.trainer.strategy.setup_optimizers(self.trainer)


class Teacher(Net):
    """A second network follows the first, within the step."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.body).requires_grad_(False)

    def training_step(self, batch, number):
        with torch.no_grad():
            for mean, new in zip(self.teacher.parameters(), self.body.parameters(), strict=True):
                mean.lerp_(new, 0.5)
                assert new.numel() < 33 or len(new.unique()) > 5
        return super().training_step(batch, number)


class Clipped(Net):
    """Weights clipped within the step."""

    def training_step(self, batch, number):
        for parameter in self.parameters():
            parameter.data.clamp_(-0.05, 0.05)
        return super().training_step(batch, number)


class Raw(Net):
    """The optimizer of torch itself makes the step."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.optimizer.step(closure=optimizer_closure)


class TwoPasses(torch.optim.SGD):
    """Two evaluations a step, the second away from the weights; another optimizer steps."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.base = torch.optim.SGD(self.param_groups, lr=lr)

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        moved = [(p, 0.01 * p.grad) for g in self.param_groups for p in g["params"]]
        for parameter, way in moved:
            parameter.add_(way)
        with torch.enable_grad():
            loss = closure()
        for parameter, way in moved:
            parameter.sub_(way)
        self.base.step()
        return loss


class Iterating(Net):
    """Takes its batches itself."""

    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Skipping(Net):
    """Leaves out the rest of each epoch."""

    def on_train_batch_start(self, batch, number):
        return -1 if number == 2 else None


class Penalty(Net):
    """Takes a gradient of its own."""

    def __init__(self) -> None:
        super().__init__(normed())

    def training_step(self, batch, _):
        images = batch[0].requires_grad_()
        output = self(images)
        (gradient,) = torch.autograd.grad(output.sum(), images, create_graph=True)
        return nn.functional.cross_entropy(output, batch[1]) + gradient.square().mean()


class SparseRows(Net):
    """An embedding with sparse gradients and bounded rows."""

    def __init__(self) -> None:
        super().__init__(optimizer=torch.optim.SGD)
        self.rows = nn.Embedding(10, 4, sparse=True, max_norm=1.0)

    def forward(self, images):
        return self.body(images) + self.rows((images[:, 0, 0, 0] > 0).long())


class ExtraState(nn.Linear):
    """Keeps what is no tensor."""

    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def sparse_buffer():
    net = Net()
    net.register_buffer("edges", torch.eye(5).to_sparse())
    return net


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
    "a network built in `setup`": (InSetup, {}, {}),
    "a network built in `configure_model`": (InConfigureModel, {}, {}),
    "layers and parameters set anew": (NewLayers, {}, {}),
    "a teacher that follows the weights": (Teacher, {}, {}),
    "weights clipped in `training_step`": (Clipped, {}, {}),
    "`ModelPruning`": (
        Net,
        {
            "callbacks": lambda: [
                ModelPruning("l1_unstructured", amount=0.3, use_lottery_ticket_hypothesis=False)
            ]
        },
        {},
    ),
    "an optimizer stepped without Lightning": (Raw, {}, {}),
    "two passes a step (SAM)": (lambda: Net(optimizer=TwoPasses), {}, {}),
    "`training_step(dataloader_iter)`": (Iterating, {}, {}),
    "a hook that skips the rest of an epoch": (Skipping, {}, {}),
    "sparse gradients, `max_norm`": (SparseRows, {}, {}),
    "gradients within `training_step`": (Penalty, {}, {}),
    "bf16 training": (lambda: Net(normed()), {"precision": "bf16-true"}, {}),
    "more than 256 levels with `rate_model='context'`": (
        Net,
        {},
        {"rate_model": "context", "num_levels": 257},
    ),
    "a sparse buffer": (sparse_buffer, {}, {}),
    "extra state of a module": (
        lambda: Net(nn.Sequential(nn.Flatten(), ExtraState(64, 4))),
        {},
        {},
    ),
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
    arguments = {"num_levels": 5, "lambda_entropy": 0.1, "path": path} | arguments
    if arguments["num_levels"] > 256:
        with pytest.raises(ValueError, match="at most 256 with `rate_model`"):
            HEMPCallback(**arguments)
        return
    hemp = HEMPCallback(**arguments)
    callbacks = options.pop("callbacks", [])
    callbacks = callbacks() if callable(callbacks) else callbacks
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
        callbacks=[hemp, *callbacks],
        **options,
    )
    if is_sharded:  # the strategy itself needs GPUs; the callback goes by its name
        strategy = trainer.strategy
        strategy.__class__ = type("FSDPStrategy", (type(strategy),), {})
    data = DataLoader(TensorDataset(torch.randn(32, 1, 8, 8), torch.arange(32) % 4), batch_size=8)
    if table()[row] == "refused":
        with pytest.raises((ValueError, TypeError, RuntimeError), match=r"HEMPCallback|finite"):
            trainer.fit(net, data)
        assert not path.exists()
        return
    trainer.fit(net, data)
    net = getattr(net, "_orig_mod", net)
    state = load(path)
    assert list(state) == list(net.state_dict())
    for name, book in hemp.codebooks.items():
        assert torch.isfinite(state[name]).all()
        apart = book.coefficients(state[name])[..., None] - book.levels.cpu()
        rounding = 1e-5 if state[name].dtype == torch.float32 else 1e-2
        assert apart.abs().amin(-1).max() < rounding, name
    load_into(Net() if row.startswith("a network built") else make(), path)
