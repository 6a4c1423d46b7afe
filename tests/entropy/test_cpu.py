"""The compiled entropy term: threads, kinds of tables, warm-up, and when it is taken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from hemp_lightning.entropy import cpu
from hemp_lightning.entropy.formula import (
    entropy_and_gradients,
    index_entropy,
    soft_entropy,
)
from hemp_lightning.entropy.tables import Layout
from tests.entropy.brute_force import (
    BACKENDS,
    UNEVEN,
)


@pytest.mark.parametrize("scope", ["tensor", "network"])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_equals_plain(scope, order, dtype):
    generator = torch.Generator().manual_seed(order)
    tensors = [torch.randn(n, generator=generator).to(dtype) for n in (200_003, 1, 3, 4_096, 0)]
    levels = [
        torch.randn(n, generator=generator).sort().values.to(dtype) for n in (16, 1, 2, 40, 3)
    ]
    plain = entropy_and_gradients(tensors, levels, order, scope=scope, backend="torch")
    fast = entropy_and_gradients(tensors, levels, order, scope=scope, backend="compiled")
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-6, atol=0)
    for a, b in zip(fast[1], plain[1], strict=True):
        scale = max([1e-30, *b.abs().reshape(-1).tolist()])
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_the_same_on_any_number_of_threads(order):
    weights, levels = torch.randn(600_001), torch.linspace(-2, 2, 16)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(entropy_and_gradients([weights], [levels], order))
    finally:
        torch.set_num_threads(threads)
    for rate, (gradient,) in results[1:]:
        assert torch.equal(rate, results[0][0]) and torch.equal(gradient, results[0][1][0])


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_table_too_large_to_be_dense(backend):
    levels = torch.linspace(-3, 3, 256, dtype=torch.float64)  # 256^4 cells
    indices = torch.randint(0, 256, (400,), generator=torch.Generator().manual_seed(0))
    soft = soft_entropy(levels[indices], levels, 4, backend=backend)
    assert abs(soft.item() - index_entropy(indices, 256, 4)) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS[1:], indirect=True)
@pytest.mark.parametrize(
    ("num_levels", "order", "count"),
    [
        (17, 3, 200),
        (100, 2, 300),
        (3000, 2, 2001),
        pytest.param(2, 9, 50, marks=pytest.mark.slow),
        (9, 5, 300),
        (6, 7, 400),
        (300, 4, 2800),
    ],
)
def test_tables_by_rows_and_of_cells_in_use(backend, num_levels, order, count):
    """Each kind of table, growing too, against the plain version: value and gradient."""
    generator = torch.Generator().manual_seed(order)
    tensors = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (count, 7)]
    levels = [torch.linspace(-2, 2, n, dtype=torch.float64) for n in (num_levels, num_levels - 1)]
    tensors[0][::5] = levels[0][num_levels // 2]
    for scope in ("tensor", "network"):
        plain = entropy_and_gradients(tensors, levels, order, scope=scope, backend="torch")
        found = entropy_and_gradients(tensors, levels, order, scope=scope, backend=backend)
        assert abs(found[0] - plain[0]) < 1e-10
        for a, b in zip(found[1], plain[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max())
        none = entropy_and_gradients(
            tensors, levels, order, scope=scope, backend=backend, with_gradients=False
        )
        assert none[0] == found[0] and none[1] == []


def printed(program: str, **environment: str) -> str:
    """What a program prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_compiler_it_is_the_plain_version():
    program = (
        "import torch; from hemp_lightning.entropy.formula import soft_entropy; "
        "from hemp_lightning.entropy.cpu import warm_up; warm_up(2); "
        "print(soft_entropy(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 1.0]), 1).item())"
    )
    found = float(printed(program, NUMBA_DISABLE_JIT="1"))
    assert abs(found - scipy_entropy([0.75, 0.25], base=2)) < 1e-6


@pytest.mark.slow
def test_warm_up_leaves_nothing_to_compile():
    program = """
import torch
from hemp_lightning.entropy.formula import entropy_and_gradients, warm_up
from hemp_lightning.entropy import dense_loops, locating, logarithms, row_loops, sparse_loops
from hemp_lightning.entropy.tables import Layout

def compiled():
    modules = dense_loops, locating, logarithms, row_loops, sparse_loops
    loops = {id(loop): loop for module in modules for loop in vars(module).values()}.values()
    return sum(len(getattr(loop, "signatures", ())) for loop in loops)

warm_up(4)
before = compiled()
weights, kinds = torch.randn(1001), []
for num_levels in (3, 9, 200):
    levels = torch.linspace(-1, 1, num_levels)
    kinds.append(Layout.of([1001], [levels], 4, False).kind())
    entropy_and_gradients([weights], [levels], 4)
print(*kinds, before > 0, compiled() - before)
"""
    assert printed(program).split() == ["dense", "rows", "sparse", "True", "0"]


def test_the_plain_version_is_for_who_asks_for_it(monkeypatch):
    def never(*_):
        raise AssertionError("the plain version was taken")

    monkeypatch.setattr("hemp_lightning.entropy.plain.bits_and_gradient", never)
    assert soft_entropy(torch.zeros(4), UNEVEN.float(), 2) == 0
    with pytest.raises(AssertionError):
        soft_entropy(torch.zeros(4), UNEVEN.float(), 2, backend="torch")


def test_a_table_beyond_the_caches_is_kept_by_rows():
    weights = torch.randn(280_003, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(-2, 2, 27)
    layout = Layout.of([len(weights)], [levels], 4, False)
    assert layout.kind() == "dense"  # memory allows it
    assert layout.kind(cpu.DENSE_CELLS) == "rows"
    rate, (gradient,) = entropy_and_gradients([weights], [levels], 4)
    plain, (slopes,) = entropy_and_gradients([weights], [levels], 4, backend="torch")
    assert abs(rate - plain) < 1e-6
    assert (gradient - slopes).abs().max() < 1e-6
