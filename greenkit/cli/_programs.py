"""Run a file, a module or a line of code as `__main__`, the way the interpreter does."""

from __future__ import annotations

import os
import runpy
import sys
from types import ModuleType

from greenkit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run_code", "run_file", "run_module"]


def run_file(path: str, arguments: Sequence[str]) -> None:
    """Run the script at `path`; directories and zip files run their `__main__`."""
    sys.argv[:] = [path, *arguments]
    if os.path.isdir(path) or not _is_source(path):  # noqa: PTH112 - strings all the way to runpy
        runpy.run_path(path, run_name="__main__")
        return
    _first_on_path(os.path.dirname(os.path.abspath(path)))  # noqa: PTH100, PTH120
    with open(path, "rb") as file:  # noqa: PTH123
        code = compile(file.read(), path, "exec", dont_inherit=True)
    _run_as_main(code, path)


def run_module(words: Sequence[str]) -> None:
    """Run the module `words[0]` with the rest as its arguments, like `python -m`."""
    if not words:
        msg = "-m needs the name of a module"
        raise ConfigError(msg)
    sys.argv[:] = list(words)
    _first_on_path(os.getcwd())  # noqa: PTH109
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def run_code(words: Sequence[str]) -> None:
    """Run the code in `words[0]` with the rest as its arguments, like `python -c`."""
    if not words:
        msg = "-c needs a program"
        raise ConfigError(msg)
    sys.argv[:] = ["-c", *words[1:]]
    _first_on_path("")
    _run_as_main(compile(words[0], "<string>", "exec", dont_inherit=True), "")


def _run_as_main(code: object, path: str) -> None:
    # Not runpy.run_path: it takes the module away again when the script ends, and greenlets or
    # atexit functions that outlive the last line would find their globals gone.
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if path:
        main.__file__ = path
    sys.modules["__main__"] = main
    exec(code, main.__dict__)  # type: ignore[arg-type]  # noqa: S102 - running a program is the point


def _is_source(path: str) -> bool:
    return not path.endswith((".pyc", ".pyz", ".zip"))


def _first_on_path(place: str) -> None:
    # The interpreter put the directory of the greenkit command there; `-P` asks for nothing.
    if not getattr(sys.flags, "safe_path", False) and sys.path:
        sys.path[0] = place
