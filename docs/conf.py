"""Build the documentation: plain Markdown that also reads well in the repository."""

from __future__ import annotations

import re
from pathlib import Path

_pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
_version = re.search(r'^version = "(.+)"$', _pyproject, re.MULTILINE)

project = "greenkit"
author = "The greenkit developers"
copyright = author  # Sphinx's name for it
release = version = _version.group(1) if _version else ""

extensions = ["myst_parser"]
exclude_patterns = ["_build", "changes/*.*.md"]  # fragments become the changelog of a release
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"greenkit {release}"
html_copy_source = False
