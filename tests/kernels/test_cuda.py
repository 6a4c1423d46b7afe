"""The Triton kernels, in Triton's interpreter on the CPU, against the plain version."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from hemp_lightning.entropy import _torch_bits_and_gradient, entropy_and_gradients
from hemp_lightning.kernels.layout import Layout

triton = pytest.importorskip("triton")
CASES = list(product((1, 2, 3, 4), (False, True), (torch.float32, torch.float64)))


def problem(order: int, pooled: bool, dtype: torch.dtype) -> tuple[torch.Tensor, Layout]:
    """Tensors of several sizes, one level or many, weights on levels and beyond the ends."""
    generator = torch.Generator().manual_seed(order)
    tensors = [torch.randn(n, generator=generator).to(dtype) for n in (1501, 1, 3, 409, 0)]
    levels = [torch.randn(n, generator=generator).sort().values.to(dtype) for n in (8, 1, 2, 5, 3)]
    tensors[0][::3] = levels[0][4]
    return torch.cat(tensors), Layout.of([len(t) for t in tensors], levels, order, pooled)


def in_interpreter() -> None:
    """Runs in a process of its own: Triton decides on import whether it interprets."""
    from hemp_lightning.kernels import cuda

    for case in CASES:
        flat, layout = problem(*case)
        assert cuda.takes(layout)
        plain = _torch_bits_and_gradient(flat, layout, True, 1e-3)
        found = cuda.bits_and_gradient(flat, layout, True, 1e-3)
        again = cuda.bits_and_gradient(flat, layout, True, 1e-3)
        assert torch.equal(found[0], again[0]) and torch.equal(found[1], again[1])
        torch.testing.assert_close(found[0], plain[0], rtol=1e-6, atol=0)
        scale = plain[1].abs().max()
        torch.testing.assert_close(found[1] / scale, plain[1] / scale, rtol=0, atol=1e-6)
        bits, none = cuda.bits_and_gradient(flat, layout, False)
        assert torch.equal(bits, found[0]) and not none.numel()
    nothing = torch.zeros(1)
    bits, gradient = cuda.bits_and_gradient(nothing, Layout.of([1], [nothing], 2, False), True)
    assert bits == 0 and torch.equal(gradient, nothing)
    print(len(CASES), "agree")


def test_it_equals_the_plain_version() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from tests.kernels.test_cuda import in_interpreter as f; f()"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{len(CASES)} agree\n", done.stderr


def test_tables_that_are_not_dense_are_left_to_the_plain_version() -> None:
    from hemp_lightning.kernels import cuda

    levels = [torch.linspace(-1, 1, 256)]
    assert not cuda.takes(Layout.of([4096], levels, 4, False))
    assert not cuda.takes(Layout.of([4096], [levels[0][:2]], 9, False))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("name", ["_accumulate", "_contract"])
def test_it_compiles_for_a_gpu(order: int, name: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hemp_lightning.kernels import cuda

    kernel = getattr(cuda, name)
    real = dict.fromkeys(("weights", "levels", "fractions", "logs", "gradient"), "*fp32")
    whole = dict.fromkeys(("sums", "bases", "blocks", "segments"), "*i64")
    numbers = dict.fromkeys(("num_cells", "num_copies", "steps"), "i32") | {"unit": "fp32"}
    constants = {"ORDER": order, "CORNERS": 1 << order, "BLOCK": 32}
    types = {**real, **whole, **numbers, **dict.fromkeys(constants, "constexpr")}
    names = kernel.arg_names
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    source = ASTSource(
        kernel,
        {name: types[name] for name in names},
        # Triton before 3.3 names constants where later versions count them
        constants
        if version < (3, 3)
        else {(names.index(name),): value for name, value in constants.items()},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert (".entry" in binary.asm["ptx"]) and binary.asm["cubin"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("order", "pooled", "dtype"), CASES)
def test_on_a_gpu(order: int, pooled: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(order)
    tensors = [torch.randn(n, generator=generator).to("cuda", dtype) for n in (200_003, 7, 4096)]
    levels = [torch.linspace(-2, 2, n, dtype=dtype, device="cuda") for n in (16, 3, 5)]
    scope = "network" if pooled else "tensor"
    plain, fast = (
        entropy_and_gradients(tensors, levels, order, scope=scope, backend=backend)
        for backend in ("torch", "compiled")
    )
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-6, atol=0)
    for a, b in zip(fast[1], plain[1], strict=True):
        torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-6)
