"""The Triton kernels, in Triton's interpreter on the CPU, against the plain version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from hemp_lightning.entropy import plain
from hemp_lightning.entropy.formula import entropy_and_gradients
from hemp_lightning.entropy.tables import Layout
from hemp_lightning.quantization.codebook import Codebook

triton = pytest.importorskip("triton")
cuda = pytest.importorskip("hemp_lightning.entropy.cuda")
needs_shared = pytest.mark.skipif(
    cuda.cuda_shared is None, reason="this Triton has no shared memory to add to"
)
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
    for case in CASES:
        flat, layout = problem(*case)
        assert cuda.takes(layout)
        expected = plain.bits_and_gradient(flat, layout, True, 1e-3)
        found = cuda.bits_and_gradient(flat, layout, True, 1e-3)
        again = cuda.bits_and_gradient(flat, layout, True, 1e-3)
        assert torch.equal(found[0], again[0]) and torch.equal(found[1], again[1])
        torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
        scale = expected[1].abs().max()
        torch.testing.assert_close(found[1] / scale, expected[1] / scale, rtol=0, atol=1e-6)
        bits, none = cuda.bits_and_gradient(flat, layout, False)
        assert torch.equal(bits, found[0]) and not none.numel()
    nothing = torch.zeros(1)
    bits, gradient = cuda.bits_and_gradient(nothing, Layout.of([1], [nothing], 2, False), True)
    assert bits == 0 and torch.equal(gradient, nothing)
    print(len(CASES), "agree")


def in_interpreter_with_shared_memory() -> None:
    """The same with the tables in shared memory, two rounds of it: several programs a tensor."""
    from tests.entropy import gluon_in_interpreter

    gluon_in_interpreter.install(2)
    in_interpreter()
    before = gluon_in_interpreter.SharedMemory.made
    cuda.warm_up(2, torch.device("cpu"))
    assert gluon_in_interpreter.SharedMemory.made > before > 0


def in_interpreter_with_broken_shared_memory() -> None:
    """A Triton that does not compile it, and one that compiles it to something else."""
    from tests.entropy import gluon_in_interpreter

    with pytest.warns(UserWarning, match="does not use shared memory, .* please report this"):
        assert not cuda.agrees(torch.device("cpu"))  # Gluon is not interpreted
    gluon_in_interpreter.install(1)
    cuda.agrees.cache_clear()
    assert cuda.agrees(torch.device("cpu"))
    cuda.agrees.cache_clear()
    gluon_in_interpreter.SharedMemory.gather = lambda self, indices, axis: indices
    with pytest.warns(UserWarning, match="bits and not"):
        assert not cuda.agrees(torch.device("cpu"))
    print(len(CASES), "agree")


@pytest.mark.slow
def test_it_equals_the_plain_version() -> None:
    interpreted("in_interpreter")


@pytest.mark.slow
@needs_shared
def test_tables_in_shared_memory_equal_the_plain_version() -> None:
    interpreted("in_interpreter_with_shared_memory")


@pytest.mark.slow
@needs_shared
def test_shared_memory_that_does_not_add_up_is_not_used() -> None:
    interpreted("in_interpreter_with_broken_shared_memory")


def interpreted(function: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.entropy.test_cuda import {function} as f; f()"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if cuda.cuda_shared is None and "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip(f"the interpreter of Triton {triton.__version__} needs NumPy below 2.4")
    assert (done.returncode, done.stdout) == (0, f"{len(CASES)} agree\n"), done.stderr


def test_tables_that_are_not_dense_are_left_to_the_plain_version() -> None:
    levels = [torch.linspace(-1, 1, 256)]
    assert not cuda.takes(Layout.of([4096], levels, 4, False))
    assert not cuda.takes(Layout.of([4096], [levels[0][:2]], 9, False))


def test_a_small_tensor_does_not_send_the_others_to_the_plain_version() -> None:
    levels = [torch.linspace(-1, 1, 32)] * 2  # a table of 32,768 cells, for 20 tuples too
    assert cuda.takes(Layout.of([300_000, 60], levels, 3, False))
    many = [60] * 20
    assert not cuda.takes(Layout.of(many, levels * 10, 3, False))


REAL = dict.fromkeys(("weights", "levels", "fractions", "logs", "gradient"), "*fp32")
WHOLE = dict.fromkeys(("sums", "bases", "blocks", "segments"), "*i64")
NUMBERS = dict.fromkeys(("num_cells", "num_copies", "copies", "steps"), "i32") | {"unit": "fp32"}


def compiled(kernel: Any, source: Any, constants: dict[str, int], **options: int) -> str:
    """The PTX of a kernel for an H100, which needs no GPU."""
    from triton.backends.compiler import GPUTarget

    names = kernel.arg_names
    types = {**REAL, **WHOLE, **NUMBERS, **dict.fromkeys(constants, "constexpr")}
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    made = source(
        kernel,
        {name: types[name] for name in names},
        # Triton before 3.3 names constants where later versions count them
        constants
        if version < (3, 3)
        else {(names.index(name),): value for name, value in constants.items()},
    )
    binary = triton.compile(made, target=GPUTarget("cuda", 90, 32), options=options)
    assert binary.asm["cubin"]
    return binary.asm["ptx"]


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("name", ["_accumulate", "_contract"])
def test_it_compiles_for_a_gpu(order: int, name: str) -> None:
    from triton.compiler import ASTSource

    constants = {"ORDER": order, "CORNERS": 1 << order, "BLOCK": 32}
    assert ".entry" in compiled(getattr(cuda, name), ASTSource, constants)


@needs_shared
@pytest.mark.parametrize("order", [1, 3])
def test_shared_memory_is_added_to_natively(order: int) -> None:
    from triton.experimental.gluon._runtime import GluonASTSource

    shared = cuda.cuda_shared
    constants = {"ORDER": order, **shared.CONSTANTS}
    ptx = compiled(shared.accumulate, GluonASTSource, constants, num_warps=shared.THREADS // 32)
    # two digits a corner, in one instruction each and not in a loop that compares and swaps
    assert len(re.findall(r"red\.shared\S*\.add\.u32", ptx)) == 2 << order
    assert "cas" not in ptx


@needs_shared
def test_a_program_cannot_overflow() -> None:
    shared = cuda.cuda_shared
    highest = 1 << (shared.SHIFT - shared.DIGIT)  # the upper digit of a mass of 1
    assert shared.TUPLES * max(highest, (1 << shared.DIGIT) - 1) < 1 << 31


@needs_shared
@pytest.mark.parametrize(("levels", "order", "copies"), [(16, 3, 2), (20, 3, 1), (2, 1, 32)])
def test_copies_of_small_tables(levels: int, order: int, copies: int) -> None:
    layout = Layout.of([60], [torch.linspace(-1, 1, levels)], order, False)
    assert cuda.cuda_shared.fits(layout) and cuda.cuda_shared.copies(layout) == copies
    assert not cuda.cuda_shared.fits(Layout.of([60], [torch.linspace(-1, 1, 21)], 3, False))
    assert not cuda.cuda_shared.fits(Layout.of([60], [torch.linspace(-1, 1, 2)], 5, False))


@needs_shared
def test_where_shared_memory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of([60], [torch.linspace(-1, 1, 5)], 2, False)
    gpu = torch.device("cuda")
    monkeypatch.setattr(cuda, "agrees", lambda device: True)
    assert cuda.shares(layout, gpu) and not cuda.shares(layout, torch.device("cpu"))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not cuda.shares(layout, gpu)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(cuda, "agrees", lambda device: False)
    assert not cuda.shares(layout, gpu)


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_gpu
@pytest.mark.parametrize("num_levels", [3, 16, 32])  # tables in shared memory, and not
def test_a_step_on_a_gpu_waits_for_nothing_and_can_be_captured(num_levels: int) -> None:
    weights = [torch.randn(n, device="cuda") for n in (100_001, 64)]
    books = [Codebook(torch.linspace(-2, 2, num_levels)).to("cuda") for _ in weights]

    def step() -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        rate, gradients = entropy_and_gradients(weights, [book.levels for book in books], 3)
        return rate, gradients, [b.quantize(w) for b, w in zip(books, weights, strict=True)]

    expected = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@on_gpu
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
