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
    file = _file(module)
    return file if file.endswith(".py") else ""


def _file(module: str) -> str:
    file = (namespace_of(sys.modules.get(module)) or {}).get("__file__")
    if file is None and module == "__main__" and sys.argv:
        file = sys.argv[0]  # the interpreter takes a script's __file__ away when its last line has run
    return file if type(file) is str else ""


def called(module: str) -> str:
    """Return how people call a module: a script by its file's name, that of `-m` by its own.

    Switches: never.
    """
    if module != "__main__":
        return module
    # `python -m package` runs a module that has a name of its own.
    spec = (namespace_of(sys.modules.get(module)) or {}).get("__spec__")
    name = getattr(spec, "name", None)
    if type(name) is str and name != "__main__":
        return name
    return file_of(module).rpartition(os.sep)[2].removesuffix(".py") or module


def is_library(module: str) -> bool:
    """Tell whether a module is installed software or the standard library, not the user's own.

    Switches: never.
    """
    root = module.partition(".")[0]
    if root in {"greenkit", "gevent"} or (root in sys.stdlib_module_names and root != "__main__"):
        return True
    file = _file(module)
    return not file or any(f"{os.sep}{one}{os.sep}" in file for one in _LIBRARY)
