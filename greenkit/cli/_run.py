"""`greenkit run`: patch this process, then run a Python program in it.

In the same process, so the patch is before the program's first import. A program that is not
Python is refused: patching would end at its exec.
"""

from __future__ import annotations

import os
import sys

from greenkit.cli._ready import complain, patch_for
from greenkit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_USAGE = (
    "usage: greenkit run [--strict | --repair] -- (script.py | -m module | -c code | command) [arguments]"
)


def run(program: Sequence[str], *, mode: str = "") -> int:
    """Patch, then run `program` as `__main__`; return 0 unless it exits otherwise.

    Args:
        program: The words after `--`: a script, `-m module`, `-c code`, `python` with any of
            them, or a Python command on the PATH.
        mode: Value for `GREENKIT`; "" leaves it as it is.
    """
    try:
        kind, argv = _understand(program)
    except ConfigError as error:
        return complain(error)
    decision = patch_for(argv, mode=mode)
    if not (decision.patch or decision.stays):  # else greenkit.auto has said it
        complain(f"not patched: {decision.reason}")
    # Late: runpy and types are only needed now, after the patch.
    from greenkit.cli import _programs

    if kind == "-m":
        _programs.run_module(argv[0])
    elif kind == "-c":
        _programs.run_code(program[list(program).index("-c") + 1])
    else:
        _programs.run_file(argv[0])
    return 0


def _understand(program: Sequence[str]) -> tuple[str, list[str]]:
    """Return what kind of program it is ("-m", "-c" or "") and its `sys.argv`."""
    words = list(program)
    if words[:1] == ["--"]:
        del words[0]
    if words and _is_this_python(words[0]):
        del words[0]
    if not words:
        raise ConfigError(_USAGE)
    if words[0] in {"-m", "-c"}:
        if len(words) == 1:
            raise ConfigError(f"{words[0]} needs an argument; {_USAGE}")
        return words[0], words[1:] if words[0] == "-m" else ["-c", *words[2:]]
    if words[0].startswith("-"):
        raise ConfigError(f"cannot give {words[0]} to an interpreter that runs already; {_USAGE}")
    return "", [_find(words[0]), *words[1:]]


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
        path = next((one for one in candidates if os.path.isfile(one) and os.access(one, os.X_OK)), "")  # noqa: PTH113
    if not path:
        raise ConfigError(f"{word!r} is neither a file nor a command on the PATH")
    if not os.path.isdir(path) and not _is_python(path):  # noqa: PTH112
        raise ConfigError(
            f"{path} is not a Python program, so it cannot be run patched in this process;"
            " start the Python program it starts with greenkit run instead"
        )
    return path


def _is_python(path: str) -> bool:
    if path.endswith((".py", ".pyc", ".pyz", ".zip")):
        return True
    with open(path, "rb") as file:  # noqa: PTH123
        first, second = file.readline(256), file.readline(512)
    # pip writes "#!/bin/sh" and a Python string holding an exec when its own path is long.
    return first.startswith(b"#!") and (b"python" in first or second.startswith(b"'''exec'"))
