"""Import what the user named, and say in one sentence why that did not work."""

from __future__ import annotations

import os
import sys
from importlib import import_module, util

from greenkit.boot import is_users_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

__all__ = ["bring"]


def bring(target: str) -> tuple[str, tuple[str, ...]]:
    """Import `target`; return ("", ()), or what went wrong and the user's frames of it.

    Args:
        target: "package.module", "package.module:name" or "path/script.py".

    Switches: may.
    """
    name, _, attribute = target.partition(":")
    try:
        module = _script(name) if _is_path(name) else _module(name)
    except _NotFoundError as error:
        return str(error), ()
    except SystemExit as error:
        return f"{name} called sys.exit({_code(error)}) while it was imported", _trace(error)
    except EOFError as error:
        return f"{name} reads standard input while it is imported, and here is none", _trace(error)
    except BaseException as error:
        return f"{name} does not import: {type(error).__name__}: {error}", _trace(error)
    first = attribute.partition(".")[0].partition("(")[0]
    return _attribute(name, module, first) if first else ("", ())


def _attribute(name: str, module: ModuleType, attribute: str) -> tuple[str, tuple[str, ...]]:
    # Asked for, not looked up: a module may answer for what it has not imported yet (Celery's does).
    try:
        getattr(module, attribute)
    except AttributeError:
        return f"{name} has no attribute {attribute!r}{_near(attribute, vars(module))}", ()
    except BaseException as error:
        return f"{name}:{attribute} does not import: {type(error).__name__}: {error}", _trace(error)
    return "", ()


class _NotFoundError(Exception):
    """Say that the target is not there."""


def _is_path(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - where Celery and gunicorn look, too
    if not all(part.isidentifier() for part in name.split(".")):
        raise _NotFoundError(f"{name!r} is no name of a module; say package.module or path/script.py")
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        # Only when the target itself is missing: what it fails to import is its own fault.
        missing = str(error.name)
        if name != missing and not name.startswith(f"{missing}."):
            raise
        raise _NotFoundError(_not_there(name, missing)) from None


def _not_there(name: str, missing: str) -> str:
    # Late: only for a message, and it loads a good deal.
    from pkgutil import iter_modules

    parent, _, last = missing.rpartition(".")
    if parent and not hasattr(sys.modules.get(parent), "__path__"):
        return f"there is no module {name!r}: {parent} is a module, not a package"
    places = sys.modules[parent].__path__ if parent else [os.getcwd()]  # noqa: PTH109
    found = [one.name for one in iter_modules(places)]
    close = _near(last, found, before=f"{parent}." if parent else "")
    return f"there is no module {name!r} in {parent or os.getcwd()}{close}"  # noqa: PTH109


def _near(name: str, names: Iterable[str], *, before: str = "") -> str:
    # Late: only for a message.
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), 1)
    return f"; did you mean {before + close[0]!r}?" if close else ""


def _script(path: str) -> ModuleType:
    if os.path.isdir(path):  # noqa: PTH112
        raise _NotFoundError(f"{path} is a directory; name a module (package.module) or a file in it")
    folder, file = os.path.split(os.path.abspath(path))  # noqa: PTH100
    if not os.path.isfile(path):  # noqa: PTH113
        files = os.listdir(folder) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208
        raise _NotFoundError(f"there is no file {path}{_near(file, files)}")
    sys.path.insert(0, folder)
    name = file.removesuffix(".py")
    spec = util.spec_from_file_location(name, os.path.join(folder, file))  # noqa: PTH118
    if spec is None or spec.loader is None:
        raise _NotFoundError(f"{path} is no Python file")
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _code(error: SystemExit) -> str:
    return "" if error.code is None else repr(error.code)


def _trace(error: BaseException) -> tuple[str, ...]:
    """Return the user's frames of `error`, and the innermost one whosever it is."""
    # Late: only when there is something to show.
    from traceback import extract_tb

    frames = extract_tb(error.__traceback__)
    shown = [one for one in frames if is_users_file(one.filename) or one is frames[-1]]
    lines = [f"{one.filename}:{one.lineno} in {one.name}: {one.line}" for one in shown]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append(f"{error.filename}:{error.lineno}: {(error.text or '').strip()}")
    return tuple(line for line in lines if not line.startswith("<frozen importlib"))
