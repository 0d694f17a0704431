"""Whose import brought a module in too early: the chain from the user's own line down to it.

No import has to be watched for it. CPython moves a module to the end of `sys.modules` when its
import *finishes*, so the order there is the order of completion; of the statements that ran one
after the other, the first whose modules had finished at or after the early one brought it.
"""

from __future__ import annotations

import functools
import os
import site
import sys
from typing import NamedTuple

from greenkit.boot._plugins import plugins
from greenkit.boot._record import RECORD, EarlyModule
from greenkit.boot._shown import file_of, shown
from greenkit.boot._source import imports_of, resolve, statements, user_modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

__all__ = ["early_modules", "imported_at", "importers"]

_START_UP = ("sitecustomize", "usercustomize")
_LONGEST = 12


class _Script(NamedTuple):
    """A run of statements: a file, or one function of it, up to a line."""

    module: str
    file: str
    package: str = ""
    code: CodeType | None = None
    before: int | None = None


def importers(module: str) -> tuple[str, ...]:
    """Return who brought `module` in: `file:line (import x)`, the user's own line first; () when unknown.

    Switches: never.
    """
    order = {name: at for at, name in enumerate(list(sys.modules))}
    at = order.get(module)
    if at is None or module == "__main__":  # a script is run, not imported
        return ()
    for script in _pth_files(order, at):
        chain = _follow(script, module, at, order)
        if chain:
            return tuple(chain)
    for name in _START_UP:
        # It ended after the module did: an agent's own loader may bring it without an import statement.
        if file_of(name) and order.get(name, -1) > at:
            chain = _follow(_Script(name, file_of(name), name), module, at, order)
            return tuple(chain) or (f"{shown(file_of(name))}:{_first_import(name)} (import {module})",)
    for script in (*_plugins(order, at), *_scripts(order, at)):
        chain = _follow(script, module, at, order)
        if chain:
            return tuple(chain)
    return ()


def _first_import(module: str) -> int:
    """Return the line of the first import in a module that is not of the standard library."""
    lines = [
        line
        for line, name in imports_of(file_of(module))
        if name.partition(".")[0] not in sys.stdlib_module_names
    ]
    return next(iter(lines), 1)


def imported_at(module: str) -> str:
    """Return `file:line` of the user's import that brought `module`, "" when unknown.

    Switches: never.
    """
    chain = importers(module)
    return chain[0].partition(" ")[0] if chain else ""


def early_modules() -> tuple[EarlyModule, ...]:
    """Return the patchable modules that were there before the patch, each with the import that brought it.

    Switches: never.
    """
    return tuple(EarlyModule(name, next(iter(importers(name)), "")) for name in RECORD.early)


def _plugins(order: dict[str, int], at: int) -> Iterator[_Script]:
    """Yield the plugins of the `celery` command that ended at `at` or later."""
    for name in sorted(plugins(), key=order.__getitem__):
        if order[name] > at:
            yield _Script(name, file_of(name), _package_of(name))


def _scripts(order: dict[str, int], at: int) -> Iterator[_Script]:
    frames = RECORD.calls[0].frames if RECORD.calls else ()
    for frame in reversed(frames):
        yield _Script(frame.module, frame.code.co_filename, frame.package, frame.code, frame.line)
    # Imported by name (a Celery app, gunicorn's --preload), after the patch, or before we could look.
    for name in user_modules():
        if name == "__main__" or order.get(name, -1) > at:
            yield _Script(name, file_of(name), _package_of(name))


def _follow(script: _Script, module: str, at: int, order: dict[str, int]) -> list[str]:
    chain: list[str] = []
    visited = {script.file}
    while len(chain) < _LONGEST:
        hit = _statement(script, at, order)
        if hit is None:
            break
        line, name = hit
        chain.append(f"{shown(script.file)}:{line} (import {name})")
        file = file_of(name)
        if name == module or not file or file in visited:
            break
        visited.add(file)
        script = _Script(name, file, _package_of(name))
    return chain


def _package_of(module: str) -> str:
    return module if file_of(module).endswith("__init__.py") else module.rpartition(".")[0]


def _statement(script: _Script, at: int, order: dict[str, int]) -> tuple[int, str] | None:
    for line, names, called in statements(script.file, package=script.package, code=script.code):
        if script.before is not None and line >= script.before:
            return None
        # A package that is still being imported ends after every import in it, and brings none of them.
        under_way = f"{script.module}."
        brings = names or _imports_inside(script.module, called)
        loaded = [name for name in brings if name in order and not under_way.startswith(f"{name}.")]
        last = max(loaded, key=order.__getitem__, default="")
        if last and order[last] >= at and not last.startswith(("gevent", "greenkit")):
            return line, last
    return None


def _imports_inside(module: str, called: str) -> list[str]:
    """Return what a function imports in its body: `django.setup()` brings more than `import django`."""
    function = resolve(module, called) if called else None
    if function is None:
        return []
    code = function.__code__
    package = str(function.__globals__.get("__package__") or "")
    inside = statements(code.co_filename, package=package, code=code)
    return [name for _, names, _ in inside for name in names]


def _pth_files(order: dict[str, int], at: int) -> Iterator[_Script]:
    """Yield the `.pth` files whose import lines brought a module that ended at `at` or later."""
    for folder in {*site.getsitepackages(), *[one for one in sys.path if one.endswith("-packages")]}:
        for file in _pth_in(folder):
            if any(order.get(one, -1) >= at for _, one in imports_of(file)):
                yield _Script("", file)


@functools.cache  # the interpreter reads them once, at its start
def _pth_in(folder: str) -> tuple[str, ...]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - pathlib loads more
    except OSError:
        return ()
    return tuple(os.path.join(folder, name) for name in names if name.endswith(".pth"))  # noqa: PTH118
