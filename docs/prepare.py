"""Pages of the documentation that are made from the repository, before Sphinx reads them.

`repository/` gets copies of documents that live elsewhere, `reference/` a page for each part of
the package with every public name. Neither is kept in git.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

from sphinx.pycode import ModuleAnalyzer

HERE = Path(__file__).parent
ROOT = HERE.parent

DOCUMENTS = ("FORMAT.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
RESULTS = ROOT / "benchmarks" / "results"

PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "hemp_lightning": ("hemp_lightning: what most programs need", ("hemp_lightning",)),
    "training": ("training: how do we train?", ("hemp_lightning.training",)),
    "entropy": ("entropy: what is the rate?", ("hemp_lightning.entropy",)),
    "quantization": ("quantization: what are the levels?", ("hemp_lightning.quantization",)),
    "coding": ("coding: how do indices become bytes?", ("hemp_lightning.coding",)),
    "file": (
        "file: what is a file?",
        (
            "hemp_lightning.file",
            "hemp_lightning.file.options",
            "hemp_reader.summary",
            "hemp_lightning.file.checkpoints",
            "hemp_lightning.file.onnx_files",
        ),
    ),
    "hemp_reader": (
        "hemp_reader: how is a file read?",
        ("hemp_reader.reading",),
    ),
    "calibration": (
        "calibration: how do we compress without training?",
        ("hemp_lightning.calibration",),
    ),
    "suite": (
        "suite: what do we compare, on what?",
        (
            "hemp_lightning.suite",
            "hemp_lightning.suite.models",
            "hemp_lightning.suite.datasets",
            "hemp_lightning.suite.baselines",
            "hemp_lightning.suite.tasks",
            "hemp_lightning.suite.classifier",
            "hemp_lightning.suite.experiment",
            "hemp_lightning.suite.schedules",
            "hemp_lightning.suite.results",
            "hemp_lightning.suite.report",
        ),
    ),
}
"""Pages of the reference: title and modules. Modules that do not exist are left out."""


def copy_documents() -> None:
    """Copy documents of the repository to `docs/repository`, results with their pictures."""
    target = HERE / "repository"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in DOCUMENTS:
        shutil.copy(ROOT / name, target / name)
    for path in sorted(RESULTS.rglob("*")):
        if path.suffix in (".md", ".png", ".svg"):
            copy = target / "results" / path.relative_to(RESULTS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def unlinked(text: str, page: Path) -> str:
    """The text of a page with links to files that are not in the documentation as plain words.

    Args:
        text: Markdown.
        page: The page's own path, from which its links start.

    Example:
        >>> unlinked("see [the file](model.hemp), [us](https://a.org), [below](#x)", Path("a.md"))
        'see the file, [us](https://a.org), [below](#x)'
    """

    def replace(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        return match[0] if (page.parent / target.split("#")[0]).is_file() else words

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", replace, text)


def public_names(module: ModuleType) -> list[str]:
    """What a module says is public: `__all__`, or what it defines itself without an underscore.

    Example:
        >>> public_names(importlib.import_module("hemp_lightning.training"))
        ['HEMPCallback']
    """
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def write_reference() -> None:
    """Write `docs/reference`: each public name once in full, and where else it can be imported."""
    target = HERE / "reference"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    homes: dict[int, str] = {}
    written = []
    for page, (title, names) in PAGES.items():
        modules = [importlib.import_module(name) for name in names if _exists(name)]
        parts = [part for module in modules for part in _module(module, homes)]
        if not modules:
            continue
        (target / f"{page}.rst").write_text("\n".join([title, "=" * len(title), "", *parts]))
        written.append(page)
    lines = ["API reference", "=============", "", ".. toctree::", "   :maxdepth: 1", ""]
    (target / "index.rst").write_text("\n".join([*lines, *(f"   {page}" for page in written), ""]))


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _module(module: ModuleType, homes: dict[int, str]) -> list[str]:
    lines = ["", module.__name__, "-" * len(module.__name__), ""]
    lines += [f".. automodule:: {module.__name__}", "   :no-members:", ""]
    for name in public_names(module):
        value, full = getattr(module, name), f"{module.__name__}.{name}"
        kind = _kind(value)
        home = homes.setdefault(id(value), full) if kind != "data" else full
        if kind == "data":
            lines += [f".. py:data:: {name}", "", f"   {_comment(name, value)}", ""]
        elif home != full:
            lines += [f".. py:{kind}:: {name}", ""]
            lines += [f"   The same as :py:{_role(kind)}:`{home}`.", ""]
        else:
            lines += [f".. auto{kind}:: {full}", ""]
    return lines


def _comment(name: str, value: object) -> str:
    """The string below a constant, in whichever module of the package it is defined."""
    modules = [m for key, m in sys.modules.items() if key.startswith("hemp_lightning")]
    for module in modules:
        if getattr(module, name, None) is value and getattr(module, "__file__", None):
            found = ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", name))
            if found:
                return " ".join(" ".join(found).split())
    raise ValueError(f"`{name}` must have a string below it that says what it is; found none")


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if callable(value) else "data"


def _role(kind: str) -> str:
    return {"class": "class", "exception": "exc", "function": "func"}[kind]
