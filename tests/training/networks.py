"""Networks and trainings of the rows in test_what_works.py."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.checkpoint import checkpoint


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


class Unfrozen(Net):
    """Its first layer is trained from the second epoch on."""

    def __init__(self) -> None:
        super().__init__()
        self.body[1].requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.body[1].requires_grad_(True)
            self.optimizers().add_param_group({"params": list(self.body[1].parameters())})


class Recomputed(Net):
    """Its body is computed again for the backward pass."""

    def forward(self, images):
        return checkpoint(self.body, images, use_reentrant=False)


class Halved(Net):
    """Its weights are set anew when training has ended."""

    def on_train_end(self):
        for parameter in self.parameters():
            parameter.data.mul_(0.5)


class ExtraState(nn.Linear):
    """Keeps what is no tensor."""

    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def pruned(permanent=True):
    """Half of the weights of a layer are 0, as torch prunes."""
    net = Net()
    nn.utils.prune.l1_unstructured(net.body[1], "weight", 0.5)
    if permanent:
        nn.utils.prune.remove(net.body[1], "weight")
    return net


def qat():
    """Linear layers that fake-quantize their own weights in each forward pass."""
    quantization = pytest.importorskip("torchao.quantization")
    qat_module = pytest.importorskip("torchao.quantization.qat")
    net = Net()
    weights = qat_module.IntxFakeQuantizeConfig(torch.int4, group_size=8)
    quantization.quantize_(net.body, qat_module.QATConfig(weight_config=weights, step="prepare"))
    return net


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
