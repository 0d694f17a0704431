"""Look at what another thread is executing, and say which line to blame.

Never by walking frame objects: between two `f_back` the watched thread may run on and switch
greenlets, which moves the C stack those frames hang from, and the process dies. `faulthandler`
writes the whole stack in C without letting go of the interpreter, so what it says is one moment.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Sample", "common", "parse", "sample"]

_OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_LIBRARY = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<name>.*)')


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the blocked thread.

    Attributes:
        lines: `file:line function`, innermost first.
        where: The innermost line of the user's own code, or of anybody's when there is none.
    """

    lines: tuple[str, ...]
    where: str


def sample(thread: int, scratch: IO[str]) -> Sample | None:
    """Return what `thread` executes now; None when it has no Python frame or waits in its hub.

    Args:
        thread: Its native identifier.
        scratch: An open temporary file, for this caller alone.
    """
    scratch.seek(0)
    scratch.truncate()
    faulthandler.dump_traceback(scratch, all_threads=True)
    scratch.seek(0)
    return parse(scratch.read(), thread)


def parse(dump: str, thread: int) -> Sample | None:
    """Return the stack of `thread` out of a faulthandler dump."""
    lines: list[str] = []
    inside = False
    for line in dump.splitlines():
        if not line.startswith("  "):
            inside = f"0x{thread:016x}" in line
        elif inside and (found := _FRAME.fullmatch(line)):
            lines.append(f"{found['file']}:{found['line']} {found['name']}")
    if not lines or _is_hub(lines[0]):
        return None
    return Sample(tuple(lines), _blame(lines))


def common(first: Sample, second: Sample) -> Sample:
    """Return what two looks at one block share, so that a busy loop's helper is not blamed.

    Compared from the outermost frame inwards by function; lines are the second look's.
    """
    shared = 0
    for one, two in zip(reversed(first.lines), reversed(second.lines), strict=False):
        if _function(one) != _function(two):
            break
        shared += 1
        if one != two:
            # The same function on another line is shared; what it calls there is not.
            break
    lines = second.lines[len(second.lines) - shared :]
    return Sample(lines, _blame(lines)) if lines else second


def _blame(lines: list[str] | tuple[str, ...]) -> str:
    return next((line for line in lines if not line.startswith((*_LIBRARY, _OURS, "<"))), lines[0])


def _function(line: str) -> tuple[str, str]:
    place, _, name = line.rpartition(" ")
    return place.rpartition(":")[0], name


def _is_hub(line: str) -> bool:
    # Waiting in the loop is what a hub does; only the stack of a greenlet can be a culprit.
    return _function(line)[1] == "run" and f"gevent{os.sep}hub.py:" in line
