"""`greenkit run`: patch this process, then run a Python program in it.

It runs in the same process, so the patch comes before the program's first import. A program that is not
Python is refused: an exec would lose the patch.
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
    "usage: greenkit run [--strict | --repair] [--children] [--watch=100ms]"
    " -- (script.py | -m module | -c code | command) [arguments]"
)


def run(program: Sequence[str], *, mode: str = "", children: bool = False, watch: str = "") -> int:
    """Patch, then run `program` as `__main__`; return 0 unless it exits otherwise.

    Args:
        program: The words after `--`: a script, `-m module`, `-c code`, `python` with any of
            them, or a Python command on the PATH. With `children`, any command.
        mode: Value for `GREENKIT`; "" leaves it as it is.
        children: Enable the start-up hook, so that Python programs it starts are patched.
        watch: Value for `GREENKIT_WATCHDOG`; "" leaves it as it is.
    """
    if watch:
        os.environ["GREENKIT_WATCHDOG"] = watch
    try:
        if children:
            _arm_children()
        kind, argv = _understand(program, children=children)
    except ConfigError as error:
        return complain(error)
    if kind == "exec":
        if mode:
            os.environ["GREENKIT"] = mode
        os.execv(argv[0], argv)  # noqa: S606 - running the program is the point
    decision = patch_for(argv, mode=mode)
    if not (decision.patch or decision.stays):  # else greenkit.auto has reported it
        complain(f"not patched: {decision.reason}")
    # Late: runpy and types are needed only after the patch.
    from greenkit.cli import _programs

    if not children:
        _programs.tell_of_exec()
    if kind == "-m":
        _programs.run_module(argv[0])
    elif kind == "-c":
        _programs.run_code(program[list(program).index("-c") + 1])
    else:
        _programs.run_file(argv[0])
    return 0


def _arm_children() -> None:
    """Enable the start-up hook in site-packages for child processes.

    Raises:
        ConfigError: The hook is not installed.
    """
    # Late: needed for this option only.
    from greenkit._children import FILE

    if not any(os.path.isfile(os.path.join(place, FILE)) for place in sys.path):  # noqa: PTH113, PTH118
        raise ConfigError(
            f"--children needs {FILE} in site-packages, and it is not there; install greenkit with pip"
            " or uv (a checkout on PYTHONPATH has no start-up hook)"
        )
    os.environ["GREENKIT_CHILDREN"] = "1"


def _understand(program: Sequence[str], *, children: bool = False) -> tuple[str, list[str]]:
    """Return the kind of program ("-m", "-c", "" or "exec") and its `sys.argv`."""
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
    path = _find(words[0])
    if not os.path.isdir(path) and not _is_python(path):  # noqa: PTH112
        if children:
            return "exec", [path, *words[1:]]
        raise ConfigError(
            f"{path} is not a Python program, so it cannot be run patched in this process; start the"
            " Python program it starts with greenkit run instead, or use greenkit run --children"
        )
    return "", [path, *words[1:]]


def _is_this_python(word: str) -> bool:
    name = os.path.basename(word)  # noqa: PTH119 - pathlib is not worth its import here
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return word == sys.executable or name in {"python", "python3", f"python{version}"}


def _find(word: str) -> str:
    """Return the path of the file `word` names, as a path or as a command."""
    path = word
    if not os.path.exists(path):  # noqa: PTH110
        # Next to this interpreter first: the venv's command, even when the venv is not activated.
        places = [os.path.dirname(sys.executable), *os.environ.get("PATH", "").split(os.pathsep)]  # noqa: PTH120
        candidates = (os.path.join(place, word) for place in places)  # noqa: PTH118
        path = next((f for f in candidates if os.path.isfile(f) and os.access(f, os.X_OK)), "")  # noqa: PTH113
    if not path:
        raise ConfigError(f"{word!r} is neither a file nor a command on the PATH")
    return path


def _is_python(path: str) -> bool:
    if path.endswith((".py", ".pyc", ".pyz", ".zip")):
        return True
    with open(path, "rb") as file:  # noqa: PTH123
        first, second = file.readline(256), file.readline(512)
    # pip writes "#!/bin/sh" and a Python string holding an exec when its own path is long.
    return first.startswith(b"#!") and (b"python" in first or second.startswith(b"'''exec'"))
