"""Forward passes through quantized weights, by hand and on PyTorch's own layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from hemp_lightning.training.quantized_forward import CHECKED, QuantizedForward, StraightThrough
from hemp_lightning.training.written_weights import carried


def quantized(module, names=None):
    """A watch of `module` that rounds the named parameters, all by default."""
    forward = QuantizedForward()
    parameters = {n: p for n, p in module.named_parameters() if names is None or n in names}
    forward.attach(module, parameters)
    forward.quantizers = dict.fromkeys(parameters, torch.round)
    forward.enabled = True
    return forward


def rounded(module, other):
    """`other` with the rounded parameters of `module`: what the watch must compute like."""
    other.load_state_dict(module.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter.round())
    return other


LAYERS = {
    "linear": (lambda: nn.Linear(6, 6), (3, 6)),
    "lstm": (lambda: nn.LSTM(6, 5, num_layers=2), (4, 3, 6)),
    "gru": (lambda: nn.GRU(6, 5, bidirectional=True), (4, 3, 6)),
    "attention": (lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0), (4, 3, 6)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 6)), (3, 6)),
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(6, 6), "weight", 0.5), (3, 6)),
    "sequence": (lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), (3, 6)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_computes_as_one_with_rounded_parameters(kind, training):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make().train(training)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4)
    real = {name: p.detach().clone() for name, p in layer.named_parameters()}
    before = dict(layer.named_parameters())
    wanted, inputs = rounded(layer, make().train(training)), torch.randn(shape)
    forward = quantized(layer)
    outputs = [module(inputs) for module in (layer, wanted)]
    outputs = [out[0] if isinstance(out, tuple) else out for out in outputs]
    torch.testing.assert_close(*outputs)
    for out in outputs:
        out.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter is before[name] and torch.equal(parameter, real[name])
        torch.testing.assert_close(parameter.grad, wanted.get_parameter(name).grad)
    forward.detach()
    for part in layer.modules():
        hooks = part._forward_pre_hooks.values()
        assert not any(type(hook).__name__ == "_Hook" for hook in hooks)


def test_a_gradient_of_the_gradient_goes_through():
    weight = torch.tensor([0.6], requires_grad=True)
    found = StraightThrough.apply(weight, torch.round)
    (first,) = torch.autograd.grad(found**3, weight, create_graph=True)
    (second,) = torch.autograd.grad(first, weight)
    assert first.item() == 3 and second.item() == 6


def test_tied_weights_are_one_tensor():
    table, seen = nn.Embedding(4, 6), []
    net = nn.Sequential(table, nn.Linear(6, 4, bias=False))
    net[1].weight = table.weight
    net[1].register_forward_hook(lambda layer, *_: seen.append(layer.weight is table.weight))
    quantized(net)
    net(torch.tensor([1]))
    assert seen == [True]


@pytest.mark.parametrize("inference", [True, False])
def test_renormalized_rows_stay_renormalized(inference):
    table = nn.Embedding(3, 4, max_norm=1.0)
    with torch.no_grad():
        table.weight.fill_(2.2)
    quantized(table)
    with torch.inference_mode(inference):
        table(torch.tensor([1]))
    norms = table.weight.detach().norm(dim=1)
    assert norms[1] <= 1.0 + 1e-5
    torch.testing.assert_close(norms[[0, 2]], torch.full((2,), 4.4))


def test_writes_through_data_and_new_parameters_stay():
    class Writes(nn.Linear):
        def forward(self, inputs):
            out = super().forward(inputs)
            self.weight.data.fill_(7.0)
            self.bias = nn.Parameter(torch.full((2,), 5.0))
            return out

    layer = Writes(2, 2)
    quantized(layer)
    layer(torch.ones(1, 2))
    assert layer.weight.tolist() == [[7.0, 7.0], [7.0, 7.0]]
    assert layer.bias.tolist() == [5.0, 5.0]


def test_a_write_through_data_is_seen_whenever_it_comes():
    class Late(nn.Linear):
        count = 0

        def forward(self, inputs):
            self.count += 1
            if self.count == 2 * CHECKED + 1:
                self.weight.data[0, 0] = 7.0
            return super().forward(inputs)

    layer = Late(2, 2)
    quantized(layer)
    for _ in range(2 * CHECKED + 1):
        assert layer.weight.max() < 7
        layer(torch.ones(1, 2))
    assert layer.weight[0, 0] == 7


def test_a_change_smaller_than_the_quantization_keeps_the_real_weights_apart():
    real = torch.tensor([0.8, 1.2])
    found = carried(real, torch.ones(2), torch.full((2,), 0.9))
    assert found.tolist() == pytest.approx([0.72, 0.9])


def test_real_weights_are_back_after_an_error_and_after_an_interrupt():
    class Broken(nn.Linear):
        error: BaseException = ValueError("no")

        def forward(self, inputs):
            raise self.error

    layer = Broken(2, 2)
    weight, forward = layer.weight, quantized(layer)
    with pytest.raises(ValueError, match="no"):
        layer(torch.ones(1, 2))
    assert layer.weight is weight
    layer.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        layer(torch.ones(1, 2))
    forward.close()
    assert layer.weight is weight


def test_a_functional_call_has_its_own_weights():
    layer = nn.Linear(2, 2, bias=False)
    quantized(layer)
    found = torch.func.functional_call(layer, {"weight": torch.full((2, 2), 0.25)}, torch.ones(2))
    assert found.tolist() == [0.5, 0.5]


def test_copies_and_pickles_are_not_watched():
    layer = nn.Linear(2, 2, bias=False)
    nn.init.constant_(layer.weight, 0.25)
    quantized(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(torch.ones(2)).tolist() == [0.5, 0.5]
    assert layer(torch.ones(2)).tolist() == [0.0, 0.0]


def test_a_checkpointed_part_is_recomputed_on_levels():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    wanted = rounded(net, copy.deepcopy(net))
    quantized(net)
    inputs = torch.randn(2, 4)
    torch.utils.checkpoint.checkpoint(net, inputs, use_reentrant=False).sum().backward()
    wanted(inputs).sum().backward()
    for own, other in zip(net.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_weights_of_torchscript_are_refused():
    scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="TorchScript"):
        QuantizedForward().attach(scripted, dict(scripted.named_parameters()))
