"""Build the documentation: plain Markdown that also reads well in the repository."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import inventories

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
_version = re.search(r'^version = "(.+)"$', _pyproject, re.MULTILINE)

project = "greenkit"
author = "The greenkit developers"
copyright = author  # Sphinx's name for it
release = version = _version.group(1) if _version else ""

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Fragments become the changelog of a release.
_KINDS = ("added", "changed", "deprecated", "fixed", "removed", "security")
exclude_patterns = ["_build", *(f"changes/*.{kind}.md" for kind in _KINDS)]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "code"  # docstrings quote code as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Switches", "returns_style"), "Source"]
napoleon_use_rtype = False
napoleon_use_ivar = True  # "Attributes:" of a tuple or a dataclass, which has them as members too
# From files beside this one: the build needs no network.
intersphinx_mapping = inventories.written()

copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"greenkit {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

PUBLIC = [
    "greenkit", "greenkit.aio", "greenkit.boot", "greenkit.celery", "greenkit.doctor", "greenkit.errors",
    "greenkit.facts", "greenkit.findings", "greenkit.http", "greenkit.limits", "greenkit.metrics",
    "greenkit.pool", "greenkit.postgres", "greenkit.responses", "greenkit.testing", "greenkit.wait",
    "greenkit.watchdog",
]  # fmt: skip


def _every_public_name_is_documented(app: Sphinx, env: object) -> None:
    from sphinx.util import logging  # late: only a build has Sphinx

    known = {name for name, *_ in env.domains["py"].get_objects()}  # type: ignore[attr-defined]
    for module in PUBLIC:
        for name in import_module(module).__all__:
            places = (
                ["greenkit", import_module("greenkit")._ROOMS.get(name)] if module == "greenkit" else [module]
            )
            if not known & {f"{place}.{name}" for place in places} and name != "__version__":
                logging.getLogger(__name__).warning("%s.%s is on no page of the API reference", module, name)


def _as_rst(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring's Markdown, which is code in backticks and an example, into reStructuredText."""
    if what == "module":
        lines.clear()  # says which file holds what, to contributors; the page has its own first sentence
    text = re.sub(r"^(\s*Examples?:)$", r"\1:\n", "\n".join(lines), flags=re.MULTILINE)
    # A code span may run over the end of a line; a plural's "s" may not touch it.
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", lambda found: f"``{' '.join(found[1].split())}``\\ ", text)
    lines[:] = text.replace("``\\  ", "`` ").split("\n")


def setup(app: Sphinx) -> None:
    """Have docstrings read, and the build fail when a public name is missing."""
    app.connect("autodoc-process-docstring", _as_rst, priority=400)  # before napoleon, at 500
    app.connect("env-check-consistency", _every_public_name_is_documented)
