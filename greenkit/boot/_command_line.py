"""How this process was started, noted before anything changes it.

`greenkit celery` and the doctor rewrite `sys.orig_argv`, `celery --workdir` changes the directory. Every
way into a process loads this package before that.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STARTED_AS", "CommandLine"]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Hold what starts this process again.

    Attributes:
        interpreter: Path of the Python executable, "" when Python does not know it.
        arguments: What follows the interpreter, its own options too.
        directory: Where relative paths begin, "" when it was deleted.
    """

    interpreter: str
    arguments: tuple[str, ...]
    directory: str


def _directory() -> str:
    try:
        real = Path.cwd()
        # The name by which a shell entered it: a symbolic link to the current release stays one.
        named = Path(os.environ.get("PWD", ""))
        return str(named if named.is_absolute() and named.exists() and named.samefile(real) else real)
    except OSError:
        return ""


STARTED_AS = CommandLine(sys.executable, tuple(sys.orig_argv[1:]), _directory())
