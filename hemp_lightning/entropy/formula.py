"""Entropy of quantized weights at order n: counted on indices, or differentiable on weights.

The soft entropy splits a weight between its two neighbouring levels in proportion to its distance,
so that the joint table of tuples, and with it the entropy, is a differentiable function of the
weights. Source: Tartaglione et al., *HEMP: High-order entropy minimization for neural network
comPression*, Neurocomputing 461 (2021), section 3.

With levels `c_1 < ... < c_L`, a weight `c_i <= w < c_{i+1}` has `a_i(w) = (c_{i+1} - w) / (c_{i+1}
- c_i)`, `a_{i+1}(w) = 1 - a_i(w)` and 0 elsewhere; beyond the ends it takes the end level. Cut in
scan order into `T = floor(P / n)` tuples,

    p(k_1 .. k_n) = (1/T) * sum_t prod_j a_{k_j}(w_{t,j})        H_n = - sum p log2 p

    dH_n/dw_{t,j} = -(1/T) / (c_{i+1} - c_i) * sum_k s_j(k) prod_{m != j} a_{k_m}(w_{t,m}) log2 p(k)

over the `2^n` corners `k` of the tuple, `s_j(k) = +1` at the upper level of weight `j`, else -1.
An empty cell counts in the gradient as if it held one tuple, `log2 p = -log2 T`, so that weights
that sit on levels have a finite gradient.

The `P mod n` weights left over are counted as tuples of length 1 in a table of their own:

    R = (T * H_n + (P mod n) * H_1(left over)) / P   bits per weight
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hemp_lightning.entropy import cpu, plain
from hemp_lightning.entropy.tables import Layout
from hemp_reader.coding.tuples.counting import check_order, counted_entropy
from hemp_reader.scan_order import check_scan, scan_axes

SCOPES = ("tensor", "network")
"""One table per tensor, or one for all tensors, pooled by index."""

BACKENDS = ("auto", "torch", "compiled")
"""`torch` is the plain version; `compiled` is numba on CPU, and Triton on CUDA where installed."""


def soft_entropy(
    weights: Tensor, levels: Tensor, order: int, *, scan: str = "row_major", backend: str = "auto"
) -> Tensor:
    """Differentiable n-th order entropy of weights with respect to levels.

    Args:
        weights: Any shape, floating; float64 is computed in float64, everything else in float32.
        levels: Strictly ascending, `(num_levels,)`; constants, no gradient flows into them.
        order: Length n of the tuples, at least 1.
        scan: Scan order, one of `hemp_reader.scan_order.SCANS`.
        backend: One of `BACKENDS`.

    Returns:
        Rate `R` in bits per weight, a scalar of the dtype of `weights`; from 0 to
        `log2(num_levels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> levels = torch.tensor([-1.0, 0.0, 1.0])
        >>> soft_entropy(torch.tensor([-1.0, 0.0, 1.0, 0.0]), levels, order=1)
        tensor(1.5000)
        >>> weights = torch.tensor([0.5, 0.0], requires_grad=True)
        >>> soft_entropy(weights, levels, order=1).backward()
        >>> weights.grad  # log2(p_0 / p_1) / 2, with p_0 = 3/4 and p_1 = 1/4
        tensor([0.7925, 0.7925])
    """
    return network_entropy([weights], [levels], order, scan=scan, backend=backend)


def network_entropy(
    weights: Sequence[Tensor],
    levels: Sequence[Tensor],
    order: int,
    *,
    scope: str = "tensor",
    scan: str = "row_major",
    backend: str = "auto",
) -> Tensor:
    """Differentiable n-th order entropy of all tensors of a network; see `soft_entropy`.

    Args:
        weights: Tensors of any shapes, on one device.
        levels: Levels of each tensor, `(num_levels,)`; the numbers of levels may differ.
        order: Length n of the tuples, at least 1. Tuples do not cross from tensor to tensor.
        scope: `tensor` for a table per tensor, `network` for one table pooled by index.
        scan: Scan order, one of `hemp_reader.scan_order.SCANS`.
        backend: One of `BACKENDS`.

    Returns:
        Bits over all tensors divided by the number of all weights: bits per weight, a scalar.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> levels = torch.tensor([0.0, 1.0])
        >>> tensors = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0])]
        >>> network_entropy(tensors, [levels, levels], order=1)
        tensor(0.5000)
        >>> network_entropy(tensors, [levels, levels], order=1, scope="network")
        tensor(0.8113)
    """
    return _Entropy.apply(levels, order, scope, scan, backend, *weights)


def entropy_and_gradients(
    weights: Sequence[Tensor],
    levels: Sequence[Tensor],
    order: int,
    *,
    scope: str = "tensor",
    scan: str = "row_major",
    backend: str = "auto",
    with_gradients: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """`network_entropy` and its gradient without a graph.

    Args and Raises are those of `network_entropy`.

    Returns:
        Rate in bits per weight, a float64 scalar; its gradient with respect to each tensor, of the
        tensor's shape (none if `with_gradients` is False).

    Example:
        >>> rate, (gradient,) = entropy_and_gradients(
        ...     [torch.tensor([0.5, 0.0])], [torch.tensor([0.0, 1.0])], order=1)
        >>> round(rate.item(), 4), gradient
        (0.8113, tensor([0.7925, 0.7925]))
    """
    _check(weights, levels, order, scope, backend)
    check_scan(scan)
    real = torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32
    scanned = [w.detach().permute(scan_axes(scan, w.ndim)) for w in weights]
    parts = [w.reshape(-1).to(real) for w in scanned]
    level_list = [entry.detach().to(real) for entry in levels]
    scale = 1 / max(1, sum(len(part) for part in parts))
    bits, gradients = _bits_and_gradients(
        parts, level_list, order, scope == "network", backend, with_gradients, scale
    )
    return bits * scale, [
        gradient.reshape(w.shape).permute(_inverse(scan_axes(scan, w.ndim)))
        for gradient, w in zip(gradients, scanned, strict=with_gradients)
    ]


def index_entropy(
    indices: Tensor, num_levels: int, order: int, *, scan: str = "row_major"
) -> float:
    """Empirical n-th order entropy of indices, with left-over weights as in `soft_entropy`.

    Args:
        indices: Integers in `[0, num_levels)`, any shape.
        num_levels: Size of the alphabet.
        order: Length n of the tuples, at least 1.
        scan: Scan order, one of `hemp_reader.scan_order.SCANS`.

    Returns:
        Rate in bits per weight, from 0 to `log2(num_levels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> index_entropy(torch.tensor([0, 1, 0, 1, 0, 1, 1, 0]), num_levels=2, order=1)
        1.0
        >>> round(index_entropy(torch.tensor([0, 1, 0, 1, 0, 1, 1, 0]), 2, order=2), 4)
        0.4056
    """
    array = torch.as_tensor(indices).detach().cpu().numpy()
    return counted_entropy(array, num_levels, order, scan=scan)


def warm_up(order: int, device: torch.device | str = "cpu") -> None:
    """Compile what tuples of `order` need on a device, so that no training step waits for it.

    Args:
        order: Length n of the tuples, at least 1.
        device: Where the weights will lie; float32.

    Example:
        >>> warm_up(2)
    """
    cpu.warm_up(order)
    device = torch.device(device)
    if device.type == "cuda" and find_spec("triton") is not None:
        from hemp_lightning.entropy import cuda

        cuda.warm_up(order, device)
    if device.type != "cpu":
        weights = torch.linspace(-1, 1, 4 * order + 1, device=device)  # one is left over
        entropy_and_gradients([weights], [torch.linspace(-1, 1, 3, device=device)], order)


class _Entropy(torch.autograd.Function):
    """`network_entropy` with the closed-form gradient, computed with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        levels: Sequence[Tensor],
        order: int,
        scope: str,
        scan: str,
        backend: str,
        *weights: Tensor,
    ) -> Tensor:
        rate, gradients = entropy_and_gradients(
            weights,
            levels,
            order,
            scope=scope,
            scan=scan,
            backend=backend,
            with_gradients=any(ctx.needs_input_grad),
        )
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [w.dtype for w in weights]
        return rate.to(weights[0].dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        scaled = [
            (gradient * grad_output).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (None, None, None, None, None, *scaled)


def _bits_and_gradients(
    parts: list[Tensor],
    levels: list[Tensor],
    order: int,
    pooled: bool,
    backend: str,
    with_gradients: bool,
    scale: float,
) -> tuple[Tensor, list[Tensor]]:
    """Bits of whole tuples and of left-over weights, and `scale` times the gradient of the sum."""
    sizes = [len(part) for part in parts]
    layout = Layout.of(sizes, levels, order, pooled)
    device = parts[0].device
    if backend != "torch" and device.type == "cpu" and cpu.IS_COMPILED:
        return cpu.bits_and_gradients(parts, layout, with_gradients, scale)
    flat_kernel = plain.bits_and_gradient
    if backend != "torch" and device.type == "cuda" and find_spec("triton") is not None:
        from hemp_lightning.entropy import cuda

        if cuda.takes(layout):
            flat_kernel = cuda.bits_and_gradient
    flat = torch.cat(parts)
    bits, gradient = flat_kernel(flat, layout, with_gradients, scale)
    where = _left_over(tuple(sizes), order, device)
    if len(where):
        left = list(flat[where].split([size % order for size in sizes]))
        more, rest = _bits_and_gradients(left, levels, 1, pooled, backend, with_gradients, scale)
        bits = bits + more
        if with_gradients:
            gradient[where] = torch.cat(rest)
    return bits, list(gradient.split(sizes)) if with_gradients else []


@lru_cache(maxsize=16)
def _left_over(sizes: tuple[int, ...], order: int, device: torch.device) -> Tensor:
    """Positions of the weights that fill no tuple; made and sent once, the same at each step."""
    ends = np.cumsum(sizes)
    parts = [np.arange(end - size % order, end) for size, end in zip(sizes, ends, strict=True)]
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.argsort(axes))


def _check(
    weights: Sequence[Tensor], levels: Sequence[Tensor], order: int, scope: str, backend: str
) -> None:
    check_order(order)
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {', '.join(SCOPES)}; found {scope!r}")
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}; found {backend!r}")
    if not weights or len(weights) != len(levels):
        raise ValueError(
            "`weights` and `levels` must be of the same length, at least 1; "
            f"found {len(weights)} and {len(levels)}"
        )
    for tensor, entry in zip(weights, levels, strict=True):
        if not tensor.is_floating_point():
            raise TypeError(f"`weights` must be floating tensors; found {tensor.dtype}")
        if entry.ndim != 1 or not len(entry):
            raise ValueError(
                f"`levels` must have shape (num_levels,), at least 1; found {tuple(entry.shape)}"
            )
        # Looking at the values of levels on a GPU would make every step wait for it.
        if entry.device.type == "cpu" and not (entry[1:] > entry[:-1]).all():
            raise ValueError(f"`levels` must be strictly ascending; found {entry[:8].tolist()}")
