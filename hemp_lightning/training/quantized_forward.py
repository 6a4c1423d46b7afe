"""Forward passes through quantized weights, while the real weights stay where they are.

A module looks its weights up in its `_parameters`. For the time of a forward pass, quantized
tensors stand there in place of the chosen parameters; autograd carries their gradients straight
through to the real weights. Before and after a forward pass everybody sees the real weights:
optimizers, checkpoints, other callbacks, and `training_step` itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from hemp_lightning.quantization.codebook import Codebook
from hemp_lightning.training.written_weights import carried, total, versions

Quantize = Callable[[Tensor], Tensor]
"""Returns a new tensor of the same shape, dtype, device and memory format."""

STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")

CHECKED, CHECKED_EVERY = 3, 100
"""The first windows, and then every so many, are compared entry by entry for writes by `.data`."""


class StraightThrough(torch.autograd.Function):
    """Quantized weights forward, the gradient unchanged backward.

    Example:
        >>> weights = torch.tensor([0.2, 0.9], requires_grad=True)
        >>> StraightThrough.apply(weights, torch.round).square().sum().backward()
        >>> weights.grad
        tensor([0., 2.])
    """

    @staticmethod
    def forward(weights: Tensor, quantize: Quantize) -> Tensor:
        """The quantized weights, a new tensor."""
        return quantize(weights.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept for backward."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient by the quantized weights is taken for that by the real ones."""
        return gradient, None


def quantize_like(codebook: Codebook, weights: Tensor) -> Tensor:
    """`codebook.quantize(weights)` with the dtype and memory format of `weights`.

    Example:
        >>> weights = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
        >>> quantize_like(Codebook(torch.tensor([0.0, 1.0])), weights).stride() == weights.stride()
        True
    """
    out = torch.empty_like(weights)
    # kernels that are turned must stay in sight
    is_flat = codebook.transform == "none"
    if is_flat and out.stride() == weights.stride() and not out.is_contiguous():
        # dense in another order: entry by entry as they lie in memory
        size = (weights.numel(),)
        codebook.quantize(
            weights.as_strided(size, (1,), weights.storage_offset()), out=out.as_strided(size, (1,))
        )
        return out
    return codebook.quantize(weights, out=out)


@dataclass(eq=False)
class _Replaced:
    """A parameter and the tensor that stands for it."""

    name: str
    parameter: nn.Parameter
    tensor: Tensor
    versions: tuple[int, int | None]
    total: float | None  # of the entries, on a CPU: a write by `.data` changes it
    places: list[tuple[Any, Any]] = field(default_factory=list)  # dict or list, and the key


@dataclass(eq=False)
class _Window:
    """The outermost call of a module, and what is replaced in it meanwhile."""

    owner: nn.Module | None
    covered: frozenset[int]
    quantizers: Mapping[str, Quantize]
    depth: int = 0
    replaced: dict[int, _Replaced] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What lies in the subtree of a module: places of chosen parameters, modules with a plan."""

    module: nn.Module
    places: list[tuple[nn.Module, str, str]]  # holder, key, name of the parameter
    covered: frozenset[int]


class QuantizedForward:
    """Puts quantized tensors in the place of parameters during forward passes.

    Attributes:
        enabled: Whether forward passes are quantized now.
        quantizers: How each parameter is quantized, by name. Others stay as they are.
        used: Names of the parameters that got a gradient through their quantized tensor.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 0.9)
        >>> forward = QuantizedForward()
        >>> forward.attach(layer, {"weight": layer.weight})
        >>> forward.quantizers, forward.enabled = {"weight": torch.round}, True
        >>> layer(torch.ones(1)).item(), round(layer.weight.item(), 3)
        (1.0, 0.9)
        >>> forward.detach()
        >>> round(layer(torch.ones(1)).item(), 3)
        0.9
    """

    def __init__(self) -> None:
        self.enabled = False
        self.quantizers: Mapping[str, Quantize] = {}
        self.used: set[str] = set()
        self._names: dict[int, str] = {}
        self._plans: dict[int, _Plan] = {}
        self._windows: list[_Window] = []
        self._undo: list[Callable[[], None]] = []
        self._count = 0
        self._written: set[str] = set()  # parameters that some forward pass has written to

    # Where hooks are.

    def attach(self, module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watch the forward passes of `module` and all within it; what was watched before is not.

        Args:
            module: The module whose forward passes count, a LightningModule.
            parameters: The parameters to quantize, by name; anywhere within `module`.

        Raises:
            ValueError: If a parameter lies in a module of TorchScript.
        """
        self.detach()
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        for part in module.modules():
            plan = self._plan(part)
            if not plan.places:
                continue
            if isinstance(part, torch.jit.ScriptModule):
                raise ValueError(
                    f"HEMPCallback quantizes the weights of Python modules; found "
                    f"`{plan.places[0][2]}` in a module of TorchScript. Give the module itself, "
                    "or leave its weights out of `tensors`"
                )
            self._plans[id(part)] = plan
            self._undo.append(
                part.register_forward_pre_hook(_Hook(self._enter), prepend=True).remove
            )
            leave = part.register_forward_hook(_Hook(self._leave), always_call=True)
            self._undo.append(leave.remove)
            # what is compiled runs without hooks: the window is around it
            if part.__dict__.get("_compiled_call_impl") is not None:
                self._wrap(part, "_compiled_call_impl")
        if isinstance(module, LightningModule) and getattr(module, "_compiler_ctx", None):
            for step in STEPS:
                if step in module.__dict__:
                    self._wrap(module, step)

    def is_attached(self, module: nn.Module) -> bool:
        """Whether forward passes of `module` are watched."""
        plan = self._plans.get(id(module))
        return plan is not None and plan.module is module

    def detach(self) -> None:
        """Leave every module as it was found."""
        self.close()
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._plans.clear()
        self._names.clear()

    def close(self) -> None:
        """End all windows, where an interrupted forward pass left one open."""
        while self._windows:
            self._close(self._windows.pop())

    @contextmanager
    def on(self) -> Iterator[None]:
        """Quantize forward passes for a while."""
        before, self.enabled = self.enabled, True
        try:
            yield
        finally:
            self.enabled = before

    @contextmanager
    def within(
        self, module: nn.Module, quantizers: Mapping[str, Quantize] | None = None
    ) -> Iterator[None]:
        """Let `module` show quantized weights to everybody for a while, also in its `state_dict`.

        Args:
            module: A module that is watched.
            quantizers: How parameters are quantized meanwhile; None for as in forward passes.
        """
        plan = self._plans[id(module)]
        window = _Window(None, plan.covered, quantizers or self.quantizers)
        with torch.no_grad():
            self._open(window, plan)
        try:
            yield
        finally:
            self._windows.remove(window)
            self._close(window)

    def _plan(self, module: nn.Module) -> _Plan:
        parts = list(module.modules())
        places = [
            (part, key, self._names[id(parameter)])
            for part in parts
            for key, parameter in part._parameters.items()
            if id(parameter) in self._names
        ]
        return _Plan(module, places, frozenset(map(id, parts)))

    def _wrap(self, module: nn.Module, attribute: str) -> None:
        call = module.__dict__[attribute]

        @functools.wraps(call)
        def within(*args: Any, **kwargs: Any) -> Any:
            self._enter(module)
            try:
                return call(*args, **kwargs)
            finally:
                self._leave(module)

        def undo() -> None:
            if module.__dict__.get(attribute) is within:
                setattr(module, attribute, call)

        setattr(module, attribute, within)
        self._undo.append(undo)

    # What happens in them.

    def _enter(self, module: nn.Module) -> None:
        if torch.compiler.is_compiling() or not self.enabled:
            return
        number = id(module)
        for window in self._windows:
            if number in window.covered:
                window.depth += window.owner is module
                return
        plan = self._plans.get(number)
        if plan is None or plan.module is not module or _is_redirected(module):
            return
        self._open(_Window(module, plan.covered, self.quantizers), plan)

    def _leave(self, module: nn.Module) -> None:
        if torch.compiler.is_compiling() or not self._windows:
            return
        window = self._windows[-1]
        if window.owner is not module:
            return
        if window.depth:
            window.depth -= 1
            return
        self._windows.pop()
        self._close(window)

    def _open(self, window: _Window, plan: _Plan) -> None:
        self._windows.append(window)
        for holder, key, name in plan.places:
            parameter = holder._parameters.get(key)
            # another tensor may stand there for a while, as in `torch.func.functional_call`
            if parameter is None or self._names.get(id(parameter)) != name:
                continue
            if name in window.quantizers:
                self._replace(window, name, holder._parameters, key)
        for holder in {id(holder): holder for holder, _, _ in plan.places}.values():
            if isinstance(holder, nn.RNNBase):
                for index, entry in enumerate(holder._flat_weights):
                    if id(entry) in window.replaced:
                        self._replace(window, self._names[id(entry)], holder._flat_weights, index)

    def _replace(self, window: _Window, name: str, store: Any, key: Any) -> None:
        parameter = store[key]
        replaced = window.replaced.get(id(parameter))
        if replaced is None:
            tensor = StraightThrough.apply(parameter, window.quantizers[name])
            before = versions(parameter, tensor)
            replaced = _Replaced(name, parameter, tensor, before, total(tensor))
            window.replaced[id(parameter)] = replaced
            if tensor.requires_grad and name not in self.used:
                tensor.register_hook(functools.partial(_note, self.used, name))
        replaced.places.append((store, key))
        store[key] = replaced.tensor

    def _close(self, window: _Window) -> None:
        self._count += 1
        for replaced in window.replaced.values():
            kept = False
            for store, key in replaced.places:
                known = isinstance(store, list) or key in store
                if known and store[key] is replaced.tensor:
                    store[key] = replaced.parameter
                    kept = True
            if kept:  # else the module has set a parameter anew, which stays
                self._carry(replaced, window.quantizers[replaced.name])

    @torch.no_grad()
    def _carry(self, replaced: _Replaced, quantize: Quantize) -> None:
        """Keep what the forward pass has written to the tensor, such as renormalized rows."""
        real, found = replaced.parameter, replaced.tensor
        own, its = versions(real, found)
        if own != replaced.versions[0]:
            return  # the real weights were written to, and count
        written = its != replaced.versions[1] or replaced.name in self._written
        searched = self._count <= CHECKED or self._count % CHECKED_EVERY == 0
        if not written and not searched and total(found) == replaced.total:
            return
        put = quantize(real.detach())
        if torch.equal(found, put):
            return
        self._written.add(replaced.name)
        real.data.copy_(carried(real.detach(), put, found.detach()))


class _Hook:
    """A hook that copies and pickles of the module do not take along."""

    sees_units = False  # units may come in another order in a file, see `reorder_units`

    def __init__(self, call: Callable[[nn.Module], None]) -> None:
        self.call = call

    def __call__(self, module: nn.Module, *_: Any) -> None:
        self.call(module)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Nothing, ()


class _Nothing:
    """What is left of a hook in a copy of its module."""

    def __call__(self, *_: Any) -> None:
        return None


def _note(used: set[str], name: str, _: Tensor) -> None:
    """A gradient has come."""
    used.add(name)


def _is_redirected(module: nn.Module) -> bool:
    """Whether DDP's call of `forward` is really one of `training_step`."""
    return "_ForwardRedirection" in getattr(module.__dict__.get("forward"), "__qualname__", "")
