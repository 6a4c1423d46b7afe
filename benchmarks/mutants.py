"""Mutation testing of one module: change it in one place, run its tests, see whether they notice.

    python benchmarks/mutants.py hemp_lightning/entropy/formula.py tests/entropy/test_formula.py
    python benchmarks/mutants.py hemp_lightning/file/tolerances.py tests/file/test_tolerances.py

mutmut and cosmic-ray rewrite files and start Python and torch anew for each mutant, which takes
several seconds here. This program loads the libraries once and forks: the child imports the
package with one syntax tree changed, and runs the tests to the first failure. Mutants that survive
are printed with line and change. Options: `--only 12 40` for lines, `--processes`, `--seconds`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

SWAPS: dict[type, list[type]] = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.FloorDiv], ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult], ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult],
    ast.LShift: [ast.RShift], ast.RShift: [ast.LShift], ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd], ast.Lt: [ast.LtE], ast.LtE: [ast.Lt], ast.Gt: [ast.GtE],
    ast.GtE: [ast.Gt], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.And: [ast.Or],
    ast.Or: [ast.And], ast.USub: [ast.UAdd], ast.Not: [ast.UAdd],
}  # fmt: skip


def edits(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Changes of a node: what to print, and what to do with (parent, node)."""
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.AugAssign)):
        for new in SWAPS.get(type(node.op), []):
            if isinstance(node.op, ast.Not):
                yield "not x -> bool(x)", ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
                continue
            changed = copy.deepcopy(node)
            changed.op = new()
            yield f"{type(node.op).__name__} -> {new.__name__}", changed
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for new in SWAPS.get(type(op), []):
                changed = copy.deepcopy(node)
                changed.ops[place] = new()
                yield f"{type(op).__name__} -> {new.__name__}", changed
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield f"{node.value} -> {not node.value}", ast.Constant(not node.value)
        elif isinstance(node.value, (int, float)):
            yield f"{node.value} -> {node.value + 1}", ast.Constant(node.value + 1)
        elif node.value is None:
            yield "None -> 0", ast.Constant(0)
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        for value in (True, False):
            changed = copy.deepcopy(node)
            changed.test = ast.Constant(value)
            yield f"condition -> {value}", changed
    if isinstance(node, ast.comprehension):
        for place in range(len(node.ifs)):
            changed = copy.deepcopy(node)
            changed.ifs[place] = ast.Constant(True)
            yield "condition of a comprehension -> True", changed
    if isinstance(node, (ast.Raise, ast.AugAssign, ast.Expr, ast.Delete, ast.Continue, ast.Return)):
        text = ast.unparse(node).splitlines()[0][:60]
        yield f"dropped: {text}", ast.Pass()
    if isinstance(node, ast.keyword) and node.arg:
        yield f"dropped the argument {node.arg}", None


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Line, change and the whole changed tree of each mutant."""
    paths: list[tuple[list[tuple[str, int | None]], ast.AST]] = []

    def visit(node: ast.AST, path: list[tuple[str, int | None]]) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr)):
            return  # messages and imports are not behaviour to change
        paths.append((path, node))
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            if isinstance(value, list):
                for place, each in enumerate(value):
                    docstring = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
                    if isinstance(each, ast.AST) and not docstring:
                        visit(each, [*path, (field, place)])
            elif isinstance(value, ast.AST):
                visit(value, [*path, (field, None)])

    visit(tree, [])
    for path, node in paths:
        if not path:
            continue
        for text, new in edits(node):
            changed = copy.deepcopy(tree)
            parent: ast.AST = changed
            for field, place in path[:-1]:
                found = getattr(parent, field)
                parent = found if place is None else found[place]
            field, place = path[-1]
            if place is None:
                setattr(parent, field, new)
            elif new is None:
                del getattr(parent, field)[place]
            else:
                getattr(parent, field)[place] = new
            line = getattr(node, "lineno", 0) or getattr(getattr(node, "value", None), "lineno", 0)
            yield line, text, ast.fix_missing_locations(changed)


def child(module: Path, tree: ast.Module | None, tests: list[str]) -> int:
    """Exit code of the tests, on the package with `tree` in the place of `module`."""
    import pytest

    compile_source = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, name: str) -> object:
        if tree is not None and Path(self.path).resolve() == module:
            return compile(tree, self.path, "exec")
        return compile_source(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[assignment]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
    return int(pytest.main([*options, *tests]))


def start(module: Path, tree: ast.Module | None, tests: list[str], log: Path) -> int:
    """A process that runs `child`."""
    number = os.fork()
    if number == 0:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 99
        try:
            code = child(module, tree, tests)
        finally:
            os._exit(code)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--match", default="", help="tests to run, as pytest's -k takes it")
    parser.add_argument("--every", type=int, default=1, help="take every n-th mutant only")
    parser.add_argument("--only", nargs=2, type=int, metavar=("FIRST", "LAST"), help="lines")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120, help="then a mutant counts as found")
    options = parser.parse_args()
    tests = [*options.tests, "-k", options.match] if options.match else options.tests
    module = options.module.resolve()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    for library in ("numpy", "torch", "numba", "scipy.stats", "constriction", "pytest",
                    "hypothesis", "safetensors.torch", "lightning.pytorch"):  # fmt: skip
        importlib.import_module(library)  # once, for all children
    log = Path(f"/tmp/mutants.{os.getpid()}")
    begin = time.perf_counter()
    number = start(module, None, tests, log)
    if os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]):
        raise SystemExit(f"the tests fail on the module as it is:\n{log.read_text()[-2000:]}")
    print(f"{module.name}: tests take {time.perf_counter() - begin:.0f} s", flush=True)
    waiting = [
        mutant
        for mutant in mutants(ast.parse(module.read_text()))
        if not options.only or options.only[0] <= mutant[0] <= options.only[1]
    ][:: options.every]
    total, survivors, slow = len(waiting), [], 0
    running: dict[int, tuple[int, str, float]] = {}
    while waiting or running:
        while waiting and len(running) < options.processes:
            line, text, tree = waiting.pop(0)
            number = start(module, tree, tests, Path(f"{log}.{line}"))
            running[number] = line, text, time.perf_counter()
        select.select([], [], [], 0.05)
        for number, (line, text, began) in list(running.items()):
            done, status = os.waitpid(number, os.WNOHANG)
            if not done and time.perf_counter() - began > options.seconds:
                os.killpg(number, signal.SIGKILL)
                os.waitpid(number, 0)
                slow += 1
                del running[number]
            elif done:
                del running[number]
                if os.waitstatus_to_exitcode(status) == 0:
                    survivors.append((line, text))
                    print(f"survived: line {line}: {text}", flush=True)
            Path(f"{log}.{line}").unlink(missing_ok=True)
    minutes = (time.perf_counter() - begin) / 60
    print(f"{total} mutants, {len(survivors)} survived, {slow} too slow, {minutes:.0f} minutes")


if __name__ == "__main__":
    main()
