"""Hidden units that something else may see stay where they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hemp_lightning.file.reorder_units import reordered_state
from tests.file.test_reorder_units import says, with_state


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.c(x + self.b(x))


class Twice(Residual):
    def forward(self, x):
        return self.b(F.relu(self.a(F.relu(self.a(x)))))


class Tied(Residual):
    def __init__(self):
        super().__init__()
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


class TwoNames(Residual):
    def __init__(self):
        super().__init__()
        self.b = self.a

    def forward(self, x):
        return self.c(F.relu(self.a(x)))


class Reads(Residual):
    def forward(self, x):
        return self.b(F.relu(self.a(x))) + self.a.weight.sum(1)


class Sums(Residual):
    def forward(self, x):
        return self.b(torch.cumsum(self.a(x), 1))


class Decides(Residual):
    def forward(self, x):
        return self.b(self.a(x)) if x.sum() > 0 else self.a(x)


class Pooled(Residual):
    def forward(self, x):
        return self.b(F.max_pool1d(self.a(x)[:, None], 3, stride=1, padding=1)[:, 0])


class Sequence(nn.Module):
    """A linear layer behind maps that are not flat counts no units."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 3, 1), nn.Linear(3, 3)

    def forward(self, x):
        return self.b(self.a(x[:, None]))


class NormTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(1, 3, 1), nn.BatchNorm1d(3), nn.Conv1d(3, 3, 1)

    def forward(self, x):
        return self.norm(self.b(self.norm(self.a(x[:, None]))))


def hooked():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[0].register_forward_hook(lambda *_: None)
    return net


def parametrized():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    nn.utils.parametrizations.orthogonal(net[0])
    return net


@pytest.mark.parametrize(
    "make",
    [
        Residual,
        Twice,
        Tied,
        TwoNames,
        Reads,
        Sums,
        Decides,
        Pooled,
        Sequence,
        NormTwice,
        hooked,
        parametrized,
    ],
    ids=lambda make: make.__name__,
)
def test_units_that_something_else_may_see_stay(make):
    torch.manual_seed(1)
    net = make()
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1 and "original" not in name:
            parameter.data[:, 0] = 0  # all would move
    state = dict(net.state_dict())
    found = reordered_state(net, state)
    moved = [name for name in state if found[name] is not state[name]]
    inputs = torch.randn(6, 3)
    torch.testing.assert_close(says(with_state(net, found), inputs), says(net, inputs))
    assert moved == []
