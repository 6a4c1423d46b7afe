"""Reordered units against PyTorch's own evaluation of the network that was reordered."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hemp_lightning import load, load_into, save
from hemp_lightning.file.reorder_units import reordered_state
from hemp_lightning.quantization.quantizers import Codebook
from hemp_lightning.suite.models import build


def says(net: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(net).eval().double()(inputs.double())


def with_state(net: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    other = copy.deepcopy(net)
    other.load_state_dict(state)
    return other


def silence(net: nn.Module, behind: str, units: list[int], width: int = 1) -> None:
    """Zero all weights of a layer that come from these units."""
    weight = net.get_parameter(f"{behind}.weight").data
    for unit in units:
        weight[:, unit * width : (unit + 1) * width] = 0


def randomized(net: nn.Module) -> nn.Module:
    """Norms with statistics of their own, so that a wrong order shows."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                tensor.data.uniform_(0.5, 2.0)
    return net


class Net(nn.Module):
    """Convolution, norm, depthwise convolution, pooling, flatten, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.next = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.hidden = nn.Linear(5 * 4, 7)
        self.last = nn.Linear(7, 3)
        self.drop = nn.Dropout(0.3)

    def forward(self, images):
        maps = F.relu(self.depthwise(F.relu6(self.norm(self.conv(images)))))
        maps = F.max_pool2d(torch.relu(self.next(maps)), kernel_size=4)
        return self.last(self.drop(self.hidden(torch.flatten(maps, 1)).relu()))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = randomized(Net())
    silence(net, "next", [0, 4])
    silence(net, "hidden", [1], width=4)
    silence(net, "last", [0, 1, 2, 5])
    return net


def test_the_network_computes_the_same_and_silent_units_are_last(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = reordered_state(net, net.state_dict())
    assert list(state) == list(before)
    images = torch.randn(4, 2, 8, 8)
    torch.testing.assert_close(says(with_state(net, state), images), says(net, images))
    assert torch.equal((state["next.weight"] != 0).any(0).flatten(1).any(1), torch.arange(6) < 4)
    assert torch.equal((state["hidden.weight"] != 0).any(0).view(5, 4).any(1), torch.arange(5) < 4)
    assert torch.equal((state["last.weight"] != 0).any(0), torch.arange(7) < 3)
    assert not state["hidden.weight"][3:].any()
    assert not state["conv.weight"][4:].any()
    for name in ("norm.running_var", "depthwise.weight"):  # go with their units
        assert not torch.equal(state[name], before[name])
        assert torch.equal(
            state[name].flatten().sort().values, before[name].flatten().sort().values
        )
    for name, tensor in net.state_dict().items():  # the module is as it was
        assert torch.equal(tensor, before[name])


def test_units_with_most_weights_come_first():
    net = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0, 0, 1], [1, 1, 1], [5, 5, 5], [0, 2, 2]]))
        net[2].weight.copy_(torch.tensor([[1, 1, 0, 1], [1, 1, 0, 0]]))
        net[0].bias.copy_(torch.tensor([4, 3, 9, 3]))
    state = reordered_state(net, net.state_dict())
    # counts by hand: 1 + 2, 3 + 2, silent, 2 + 1; equal ones keep their order
    assert state["0.weight"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 2, 2], [0, 0, 0]]
    assert state["2.weight"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert state["0.bias"].tolist() == [3, 4, 3, 3]  # the silent one's is the commonest


def test_silence_goes_back_through_the_layers():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1, 1, 1], [0, 1, 1]]))
        net[4].weight.copy_(torch.tensor([[0, 1]]))  # the one unit that listens to net[0]'s first
    state = reordered_state(net, net.state_dict())
    assert state["2.weight"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert not state["0.weight"][2].any()


def chain(*between: nn.Module) -> nn.Module:
    """Two linear layers of ones; the second of three units between has no weights and no bias."""
    net = nn.Sequential(nn.Linear(2, 3), *between, nn.Linear(3, 2))
    for tensor in net.parameters():
        tensor.data.fill_(1.0)
    net[0].weight.data[1] = 0
    net[0].bias.data[1] = 0
    return net


@pytest.mark.parametrize("between", [[nn.ReLU()], [nn.Tanh(), nn.Dropout(0.1), nn.SiLU()], []])
def test_weights_that_listen_to_an_empty_unit_become_zero(between):
    net = chain(*between)
    state = reordered_state(net, net.state_dict())
    last = f"{len(between) + 1}.weight"
    assert state[last].tolist() == [[1, 1, 0], [1, 1, 0]]  # and the unit is the last one
    inputs = torch.randn(5, 2)
    assert torch.equal(says(with_state(net, state), inputs), says(net, inputs))


@pytest.mark.parametrize(
    "between", [[nn.Sigmoid()], [nn.Softplus()], [nn.Hardtanh(0.5, 1.0)], [nn.ReLU(), nn.Sigmoid()]]
)
def test_a_unit_that_speaks_without_weights_is_heard(between):
    net = chain(*between)
    state = dict(net.state_dict())
    assert all(reordered_state(net, state)[name] is state[name] for name in state)
    net = chain(nn.ReLU())
    net[0].bias.data[1] = 0.5
    state = dict(net.state_dict())
    assert all(reordered_state(net, state)[name] is state[name] for name in state)


def test_a_norm_makes_something_of_nothing():
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    net[0].weight.data[1] = 0
    state = dict(net.state_dict())
    assert all(reordered_state(net, state)[name] is state[name] for name in state)


def test_empty_units_go_forth_through_the_layers():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten())
    net += nn.Sequential(nn.Linear(2 * 4, 1))  # maps of 2 x 2
    for tensor in net.parameters():
        tensor.data.fill_(1.0)
    for layer in (net[0], net[2]):
        layer.bias.data[0] = 0
    net[0].weight.data[0] = 0
    net[2].weight.data[0, 1] = 0  # listens to the empty one alone
    state = reordered_state(net, net.state_dict())
    assert state["2.weight"][:, :, 0, 0].tolist() == [[1, 0], [0, 0]]
    assert state["5.weight"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    images = torch.randn(3, 1, 2, 2)
    assert torch.equal(says(with_state(net, state), images), says(net, images))


def test_codebooks_say_which_unit_is_empty():
    net = chain(nn.ReLU())
    net[0].weight.data[1] = 0.2
    book = Codebook(torch.tensor([0.0, 1.0]), torch.tensor([0.5]))
    sides = Codebook(torch.tensor([-1.0, 1.0]), torch.tensor([0.0]))  # has no 0
    state = dict(net.state_dict())
    assert reordered_state(net, state)["2.weight"] is state["2.weight"]
    found = reordered_state(net, state, {"0.weight": book, "2.weight": book})
    assert found["2.weight"].tolist() == [[1, 1, 0], [1, 1, 0]]
    found = reordered_state(net, state, {"0.weight": book, "2.weight": sides})
    assert found["2.weight"] is state["2.weight"]


def test_codebooks_say_what_is_zero():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-1.1, 0.9, 1.2]))
        net[0].weight.copy_(torch.tensor([[0.9, -1.2], [1.1, 1.0], [1.0, 0.8]]))
        net[2].weight.copy_(torch.tensor([[0.1, 0.9, 1.1], [-0.2, 1.3, 0.1]]))
    book = Codebook(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-0.5, 0.5]))
    sides = Codebook(torch.tensor([-1.0, 1.0]), torch.tensor([0.0]))  # has no 0
    books = {"0.weight": sides, "2.weight": book, "0.bias": sides}
    state = reordered_state(net, net.state_dict(), books)
    assert torch.equal(
        book.quantize(state["2.weight"]).bool(), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    )
    assert state["0.bias"].tolist() == pytest.approx([0.9, 1.2, 1.0])
    assert sides.quantize(state["0.weight"])[2].tolist() == [1.0, -1.0]  # stays: there is no 0
    books["0.weight"] = book
    assert reordered_state(net, net.state_dict(), books)["0.weight"][2].tolist() == [0.0, 0.0]


def test_without_a_silent_unit_nothing_moves(net):
    state = randomized(Net()).state_dict()
    found = reordered_state(net, state)
    assert all(found[name] is state[name] for name in state)


def test_all_units_silent():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    net[2].weight.data.zero_()
    state = reordered_state(net, net.state_dict())
    assert not state["0.weight"].any()
    inputs = torch.randn(5, 2)
    torch.testing.assert_close(says(with_state(net, state), inputs), says(net, inputs))


def test_a_grouped_convolution_is_no_layer_of_its_own():
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
    net[2].weight.data[:, 0] = 0
    state = dict(net.state_dict())
    assert all(reordered_state(net, state)[name] is state[name] for name in state)


class Counts(nn.Module):
    """A forward pass that draws numbers and changes a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return self.b(self.a(x)) + torch.rand(3)


def test_looking_changes_nothing():
    net = Counts()
    net.b.weight.data[:, 0] = 0
    random = torch.get_rng_state()
    state = reordered_state(net, net.state_dict())
    assert torch.equal(torch.get_rng_state(), random)
    assert float(net.calls) == 0
    assert not state["b.weight"][:, 2].any() and state["b.weight"][:, 0].any()


@pytest.mark.parametrize("name", ["lenet5", "lenet300", "resnet20", "vgg11_bn", "mobilenet_v2"])
def test_networks_of_the_zoo(name):
    torch.manual_seed(0)
    size = {"lenet5": 28, "lenet300": 28}.get(name, 32)
    channels = 1 if size == 28 else 3
    net = randomized(build(name, 10, channels, size))
    for part in net.modules():  # every third unit in front of each layer falls silent
        if isinstance(part, nn.Conv2d) and part.groups == 1 and part.in_channels > channels:
            part.weight.data[:, ::3] = 0
        if isinstance(part, nn.Linear) and part.in_features != size * size:
            part.weight.data[:, ::3] = 0
    before = dict(net.state_dict())
    state = reordered_state(net, before)
    assert sum(state[name] is not before[name] for name in before) > 3
    images = torch.randn(2, channels, size, size)
    torch.testing.assert_close(
        says(with_state(net, state), images), says(net, images), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_what_a_norm_makes_0_is_not_listened_to(activation):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), activation(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3)
    )
    net = randomized(net)
    net[1].weight.data[:4] = 0
    net[1].bias.data[1:] = 0
    state = reordered_state(net, net.state_dict())
    heard = [bool(column.any()) for column in state["4.weight"].unbind(1)]
    # channels 1 to 3 are 0 whatever comes in; a sigmoid makes one half of that
    assert sum(heard) == (3 if activation is nn.ReLU else 6)
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(
        says(with_state(net, state), images), says(net, images), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("keeps", [True, False])
def test_hooks_that_see_no_units_let_them_move(keeps):
    def hook(*_):
        return None

    net = randomized(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    net[2].weight.data[:, :3] = 0
    hook.sees_units = keeps
    net[0].register_forward_hook(hook)
    state = reordered_state(net, net.state_dict())
    assert torch.equal(state["2.weight"], net[2].weight) == keeps


def test_a_file_is_smaller_and_computes_the_same(tmp_path):
    torch.manual_seed(0)
    net = build("lenet300")
    keep = [torch.rand(300) < 0.2, torch.rand(100) < 0.4]
    for name, size, kept in (("fc1", 784, keep[0]), ("fc2", 300, keep[1])):
        values = torch.randint(-1, 2, (len(kept), size)) * (torch.rand(len(kept), size) < 0.1)
        net.get_parameter(f"{name}.weight").data.copy_(values)
    net.fc2.weight.data[:, ~keep[0]] = 0
    net.fc3.weight.data[:, ~keep[1]] = 0
    exact = {"num_levels": 3, "float_dtype": "float32"}
    plain = save(net, tmp_path / "plain.hemp", **exact)
    less = save(net, tmp_path / "less.hemp", reorder_units=True, **exact)
    assert less.file_bytes < 0.95 * plain.file_bytes
    images = torch.randn(8, 1, 28, 28)
    found = [load_into(build("lenet300"), tmp_path / f"{name}.hemp") for name in ("plain", "less")]
    torch.testing.assert_close(says(found[1], images), says(found[0], images))
    assert load(tmp_path / "less.hemp").keys() == net.state_dict().keys()


def test_a_state_dict_has_no_layers(tmp_path):
    with pytest.raises(TypeError, match=r"`reorder_units` needs a module.* found OrderedDict"):
        save(build("lenet300").state_dict(), tmp_path / "x.hemp", reorder_units=True)
