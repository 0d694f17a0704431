"""How places and modules are called when they are shown to people, and whose they are.

Reads `sys.path` and the namespaces of true modules; opens no file.
"""

from __future__ import annotations

import os
import sys

from greenkit.boot._graph import namespace_of

__all__ = ["called", "file_of", "is_library", "shown"]

_LIBRARY = ("site-packages", "dist-packages")


def shown(place: str) -> str:
    """Return `file:line` with the file relative to where Python found it, as people say it.

    Switches: never.
    """
    roots = [os.path.abspath(one or os.curdir) for one in sys.path]  # noqa: PTH100 - pathlib loads more
    roots = [one for one in roots if place.startswith(one + os.sep)]
    return place[len(max(roots, key=len)) + 1 :] if roots else place


def file_of(module: str) -> str:
    """Return the source file of a loaded module, "" when it has none.

    Switches: never.
    """
    file = (namespace_of(sys.modules.get(module)) or {}).get("__file__")
    return file if type(file) is str and file.endswith(".py") else ""


def called(module: str) -> str:
    """Return how people call a module: a script by its file's name.

    Switches: never.
    """
    file = file_of(module) if module == "__main__" else ""
    return file.rpartition(os.sep)[2].removesuffix(".py") or module


def is_library(module: str) -> bool:
    """Tell whether a module is installed software or the standard library, not the user's own.

    Switches: never.
    """
    root = module.partition(".")[0]
    if root in {"greenkit", "gevent"} or (root in sys.stdlib_module_names and root != "__main__"):
        return True
    file = (namespace_of(sys.modules.get(module)) or {}).get("__file__")
    return type(file) is not str or any(f"{os.sep}{one}{os.sep}" in file for one in _LIBRARY)
