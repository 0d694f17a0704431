"""`greenkit run`: patch this process, then run a Python program in it.

In the same process, so the patch is before the program's first import. A program that is not
Python is refused: patching would end at its exec.
"""

from __future__ import annotations

import os
import sys

from greenkit.boot import decide, on_import, patch
from greenkit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_USAGE = "usage: greenkit run [--strict] [--repair] -- (script.py | -m module | python … | command) [arguments]"


def run(program: Sequence[str], *, strict: bool = False, repair: bool = False) -> int:
    """Patch, then run `program` as `__main__`; return 0 unless it exits otherwise.

    Args:
        program: The words after `--`: a script, `-m module`, `-c code`, `python` with any of
            them, or a Python command on the PATH.
        strict: Refuse to start when the patch left errors.
        repair: Bind stale names again where it is safe.

    Raises:
        ConfigError: Nothing to run, not found, or not a Python program.
    """
    words = list(program)
    if words[:1] == ["--"]:
        del words[0]
    if words and _is_this_python(words[0]):
        del words[0]
    if not words:
        raise ConfigError(_USAGE)
    path = "" if words[0] in {"-m", "-c"} else _find(words[0])
    argv = [words[1].split(".")[0], *words[2:]] if words[0] == "-m" and len(words) > 1 else words
    decision = decide(argv, os.environ)
    if decision.patch:
        patch(strict="error" if strict else None, repair=repair)
        on_import("psycopg2", "greenkit.postgres:install")
    else:
        print(f"greenkit: not patched, {decision.reason}", file=sys.stderr)  # noqa: T201 - this is a command
    # Late: runpy and types are only needed now, after the patch.
    from greenkit.cli import _programs

    if words[0] == "-m":
        _programs.run_module(words[1:])
    elif words[0] == "-c":
        _programs.run_code(words[1:])
    else:
        _programs.run_file(path, words[1:])
    return 0


def _is_this_python(word: str) -> bool:
    name = os.path.basename(word)  # noqa: PTH119 - pathlib is not worth its import here
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return word == sys.executable or name in {"python", "python3", f"python{version}"}


def _find(word: str) -> str:
    """Return the path of the Python file `word` names, as a path or as a command."""
    path = word
    if not os.path.exists(path):  # noqa: PTH110
        # Next to this interpreter first: the venv's command, even when the venv is not activated.
        places = [os.path.dirname(sys.executable), *os.environ.get("PATH", "").split(os.pathsep)]  # noqa: PTH120
        candidates = (os.path.join(place, word) for place in places)  # noqa: PTH118
        path = next((one for one in candidates if os.access(one, os.X_OK) and os.path.isfile(one)), "")  # noqa: PTH113
    if not path:
        msg = f"{word!r} is neither a file nor a command on the PATH"
        raise ConfigError(msg)
    if not os.path.isdir(path) and not _is_python(path):  # noqa: PTH112
        msg = (
            f"{path} is not a Python program, so it cannot be run patched in this process;"
            " start the Python program it starts with greenkit run instead"
        )
        raise ConfigError(msg)
    return path


def _is_python(path: str) -> bool:
    if path.endswith((".py", ".pyc", ".pyz", ".zip")):
        return True
    with open(path, "rb") as file:  # noqa: PTH123
        first, second = file.readline(256), file.readline(512)
    # pip writes "#!/bin/sh" and a Python string holding an exec when its own path is long.
    return first.startswith(b"#!") and (b"python" in first or second.startswith(b"'''exec'"))
