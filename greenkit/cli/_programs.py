"""Run a file, a module or a line of code as `__main__`, the way the interpreter does."""

from __future__ import annotations

import builtins
import os
import runpy
import sys
from types import CodeType, ModuleType

from greenkit.cli._ready import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

__all__ = ["run_code", "run_file", "run_module", "tell_of_exec"]


def run_file(path: str) -> None:
    """Run the script at `path`; directories and zip files run their `__main__`."""
    if os.path.isdir(path) or path.endswith((".pyc", ".pyz", ".zip")):  # noqa: PTH112 - runpy wants strings
        runpy.run_path(path, run_name="__main__")
        return
    _first_on_path(os.path.dirname(os.path.abspath(path)))  # noqa: PTH100, PTH120
    with open(path, "rb") as file:  # noqa: PTH123
        code = compile(file.read(), path, "exec", dont_inherit=True)
    _run_as_main(code, path)


def run_module(name: str) -> None:
    """Run the module `name`, like `python -m`."""
    _first_on_path(os.getcwd())  # noqa: PTH109
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_code(source: str) -> None:
    """Run `source`, like `python -c`."""
    _first_on_path("")
    _run_as_main(compile(source, "<string>", "exec", dont_inherit=True), "")


def _run_as_main(code: CodeType, path: str) -> None:
    # Not runpy.run_path: it removes the module when the script ends, and greenlets or atexit
    # functions that run later would miss their globals.
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if path:
        main.__file__ = path
    sys.modules["__main__"] = main
    exec(code, main.__dict__)  # noqa: S102 - running a program is the point


def _first_on_path(place: str) -> None:
    # The interpreter put the directory of the greenkit command there; under -P it put nothing.
    if not getattr(sys.flags, "safe_path", False) and sys.path:
        sys.path[0] = place


def tell_of_exec() -> None:
    """Print a warning when the program replaces this process, which loses the patch.

    `ddtrace-run`, `opentelemetry-instrument` and a server that restarts itself do that.
    """

    def telling(real: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
        def execute(path: Any, *rest: Any) -> NoReturn:
            if os.environ.get("GREENKIT_CHILDREN", "0") in {"", "0"}:
                complain(
                    f"{path} replaces this process, and the patch ends here;"
                    " start it with: greenkit run --children -- …"
                )
            real(path, *rest)

        return execute

    # execl, execvp and the others call one of these two (`os.py`, 3.10 to 3.14).
    os.execv, os.execve = telling(os.execv), telling(os.execve)
