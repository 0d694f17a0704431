"""What to do about an import that came before the patch: a line where a line is early enough, else a command.

Imported late, by whoever has something to explain.
"""

from __future__ import annotations

import os
import sys

from greenkit.boot._plugins import plugin_at
from greenkit.boot._record import RECORD
from greenkit.boot._shown import file_of, is_library, shown

__all__ = ["debugger_remedy", "entry_file", "first_line", "remedy"]

# A part of the path of an agent's `sitecustomize`, and the command that brings it.
_AGENTS = {
    "opentelemetry": "opentelemetry-instrument",
    "ddtrace": "ddtrace-run",
    "newrelic": "newrelic-admin run-program",
}


def remedy(importer: str, *, until: str = "") -> str:
    """Return the hint for what `importer` brought before the patch.

    Args:
        importer: `file:line` of the import, as it is shown; "" when unknown.
        until: What can be done in the source instead, as a sentence. Left out where the hint ends in a
            command to copy: what an agent brought is not the user's to change.

    Switches: never.
    """
    file = importer.partition(" ")[0].rpartition(":")[0]
    name = file.rpartition(os.sep)[2]
    if name in {"sitecustomize.py", "usercustomize.py"} or name.endswith(".pth"):
        agent = _agent(file)
        who, words = agent.partition(" ")[0] or name, _program()
        if agent and who not in words:
            words = f"{agent} {words}"
        return (
            f"Line 1 of the program is too late: {who} imports before it."
            f" Start it with: greenkit run --children -- {words}"
        )
    if "debugpy/" in file or "pydev" in file:
        return debugger_remedy()
    if plugin := plugin_at(file):
        return (
            f"Line 1 of the project is too late: the celery command imports its plugin {plugin} before it."
            f" Start it with: greenkit celery {_words()}, or install {plugin} elsewhere."
        )
    if file and _is_command(file):
        return (
            f"Line 1 of your module is too late: {name} imports before it."
            f" Start it with: greenkit run --children -- {_program()}"
        )
    return f"{first_line()} {until}".rstrip()


def first_line() -> str:
    """Return the hint that says in which file of this project the line belongs.

    Switches: never.
    """
    return f'Make "import greenkit.auto" line 1 of {entry_file()}, or start it with "greenkit run -- …".'


def entry_file() -> str:
    """Return the file of the project that ran before its others; "the program" when none is known.

    It is the outermost caller of the patch: `shop/__init__.py` where Celery names `shop`, although the
    patch is asked for in `shop/celery.py`, which that file imports. Without a patch it is the script.

    Switches: never.
    """
    frames = RECORD.calls[0].frames if RECORD.calls else ()
    files = [frame.code.co_filename for frame in reversed(frames) if not is_library(frame.module)]
    if not is_library("__main__"):
        files.append(file_of("__main__"))
    own = (file for file in files if file and not file.startswith("<") and not _is_command(file))
    return shown(next(own, "")) or "the program"


def debugger_remedy() -> str:
    """Return the hint for what debugpy, or another face of pydevd, brought before the patch.

    Switches: never.
    """
    # Without GEVENT_SUPPORT pydevd puts native functions back (pydevd 3.5, `pydev_monkey.py`).
    return (
        "Line 1 of the program is too late: the debugger imports before it."
        f" Start it with: GEVENT_SUPPORT=True greenkit run --children -- {_program()}"
    )


def _agent(file: str) -> str:
    # What is shown is cut at an entry of sys.path, and an agent puts its own directory there.
    path = f"/{file}/{file_of('sitecustomize')}"
    return next((command for part, command in _AGENTS.items() if f"/{part}/" in path), "")


def _is_command(file: str) -> bool:
    """Tell whether a file is a command that was installed, as `gunicorn` is, and not the user's script."""
    started = os.path.abspath(sys.argv[0]) if sys.argv else ""  # noqa: PTH100 - pathlib loads more
    beside = os.path.dirname(started) == os.path.dirname(sys.executable)  # noqa: PTH120
    return beside and os.path.basename(file) == os.path.basename(started)  # noqa: PTH119


def _words() -> str:
    """Return what follows `celery` on the command line."""
    return " ".join(sys.argv[1:])


def _program() -> str:
    """Return how the program was started, as it is typed; a placeholder when that cannot be told.

    Under the doctor with what stood before it: an agent takes its own options and leaves no trace of them.
    """
    typed, observed = _own_words(), os.environ.get("GREENKIT_OBSERVE_COMMAND", "")
    return observed if observed.endswith(f" {typed}") else typed


def _own_words() -> str:
    from shlex import join  # late: only for a message

    words = list(sys.orig_argv[1:])
    if not words or words[0].startswith("-c"):
        return "PROGRAM"
    if words[0].startswith("-"):
        return join(["python", *words])
    if _is_command(words[0]):
        return join([os.path.basename(words[0]), *words[1:]])  # noqa: PTH119
    return join(["python", *words])
