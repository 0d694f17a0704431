"""Who asked for the patch, and whose import came before it.

Reads stack frames and source files; imports `ast` only when there is something to explain.
"""

from __future__ import annotations

import sys

from greenkit.boot._plan import PATCHABLE
from greenkit.boot._record import EarlyModule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["early_modules", "imports_of", "outside_caller"]

_MACHINERY = frozenset({"gevent", "greenkit", "importlib", "runpy"})


def _outside_frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _root(str(frame.f_globals.get("__name__", ""))) not in _MACHINERY and not (
            frame.f_code.co_filename.startswith("<frozen")
        ):
            yield frame
        frame = frame.f_back


def _root(name: str) -> str:
    return name.partition(".")[0]


def outside_caller() -> str:
    """Return `file:line` of the innermost frame that is neither gevent's nor ours, or ""."""
    for frame in _outside_frames():
        return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return ""


def early_modules() -> tuple[EarlyModule, ...]:
    """Return the patchable modules loaded by now, each with the import that brought it.

    Modules that gevent itself loaded are left out: it knows what it does.
    """
    order = list(sys.modules)
    first_gevent = next((at for at, name in enumerate(order) if _root(name) == "gevent"), len(order))
    early = [name for name in order[:first_gevent] if name in PATCHABLE]
    if not early:
        return ()
    position = {name: at for at, name in enumerate(order)}
    done = sorted(_finished_imports(position))
    return tuple(EarlyModule(name, _brought_by(position[name], done)) for name in early)


def _brought_by(at: int, done: list[tuple[int, str]]) -> str:
    # CPython moves a module to the end of sys.modules when its import *finishes*: the statement
    # responsible is the one whose own module finished first after the early one.
    return next((place for finished, place in done if finished >= at), "")


def _finished_imports(position: dict[str, int]) -> Iterator[tuple[int, str]]:
    for frame in _outside_frames():
        file = frame.f_code.co_filename
        package = str(frame.f_globals.get("__package__") or "")
        for line, name in imports_of(file, package=package):
            if line < frame.f_lineno and name in position and _root(name) not in _MACHINERY:
                yield position[name], f"{file}:{line} (import {name})"


def imports_of(file: str, *, package: str = "") -> list[tuple[int, str]]:
    """Return (line, module) for every import statement in `file`; [] when it cannot be read."""
    # Late: parsing is only paid for by a process that has something to explain.
    import ast

    try:
        with open(file, "rb") as source:  # noqa: PTH123 - pathlib is not worth its import here
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return []
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            found.append((node.lineno, base))
            found.extend((node.lineno, f"{base}.{alias.name}") for alias in node.names)
    return found


def _absolute(module: str, level: int, package: str) -> str:
    if not level:
        return module
    parts = package.split(".")
    parents = parts[: len(parts) - level + 1]
    return ".".join([*parents, module] if module else parents)
