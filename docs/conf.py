"""How Sphinx builds the documentation: `python -m sphinx -W -b html docs docs/_build`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "reader")]

from prepare import copy_documents, unlinked, write_reference  # noqa: E402

from hemp_lightning.version import __version__  # noqa: E402

project = "hemp_lightning"
author = "The hemp_lightning maintainers"
copyright = "2026, the hemp_lightning maintainers"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "myst_nb",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "jupyter_execute", "inventories", "**.ipynb_checkpoints"]
suppress_warnings = ["myst.header"]  # tables that a program writes start at any level

html_theme = "furo"
html_title = f"hemp_lightning {__version__}"
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

# Pages that are programs run while the documentation is built, each in a folder of its own.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True
os.environ.setdefault("HEMP_DATA", str(HERE.parents[1] / "shared" / "data"))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*sys.path[1:3], *filter(None, [os.environ.get("PYTHONPATH")])]
)

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "literal"  # our docstrings set code in single backticks

# Small inventories of our own, so that a build needs no network. `docs/inventories` has the names.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.txt"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.txt"),
    "lightning": ("https://lightning.ai/docs/pytorch/stable/", "inventories/lightning.txt"),
}


def setup(app) -> None:
    """Write the pages that come from the repository before Sphinx reads any."""
    copy_documents()
    write_reference()
    app.connect("source-read", _source_read)


def _source_read(app, name: str, source: list[str]) -> None:
    if name.startswith(("repository/", "results/")):
        text = source[0].replace("../../benchmarks/results/", "../repository/results/")
        source[0] = unlinked(text, HERE / f"{name}.md")
