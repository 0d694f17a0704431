"""Which line of a sampled stack to blame."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Sample", "common", "sample"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the blocked thread.

    Attributes:
        lines: `file:line function`, innermost first.
        where: The innermost line of the user's own code, or of anybody's when there is none.
    """

    lines: tuple[str, ...]
    where: str


def sample(frame: FrameType | None) -> Sample:
    """Read a running thread's stack from `frame` outwards."""
    lines: list[str] = []
    own = ""
    while frame is not None and len(lines) < _DEPTH:
        code = frame.f_code
        line = f"{code.co_filename}:{frame.f_lineno} {code.co_name}"
        lines.append(line)
        if not own and not code.co_filename.startswith((*_LIBRARY, _OURS, "<")):
            own = line
        frame = frame.f_back
    return Sample(tuple(lines), own or (lines[0] if lines else "unknown"))


def common(first: Sample, second: Sample) -> Sample:
    """Return what two looks at one block share, so that a busy loop's helper is not blamed.

    Compared from the outermost frame inwards by function; lines are the second look's.
    """
    shared = 0
    for one, two in zip(reversed(first.lines), reversed(second.lines), strict=False):
        shared += 1
        if one != two:
            # The same function on another line is still shared; what it calls is not.
            shared -= _function(one) != _function(two)
            break
    lines = second.lines[len(second.lines) - shared :]
    if not lines:
        return second
    own = next((line for line in lines if not line.startswith((*_LIBRARY, _OURS, "<"))), lines[0])
    return Sample(lines, own)


def _function(line: str) -> tuple[str, str]:
    place, _, name = line.rpartition(" ")
    return place.rpartition(":")[0], name
