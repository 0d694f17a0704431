"""Who asked for the patch: the stack of each `patch_all()`, kept as plain values.

Kept when the patch is asked for, read when there is something to explain. Reads stack frames only.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from greenkit.boot._shown import is_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import CodeType, FrameType

__all__ = ["Frame", "PatchCall", "note_call", "outside_caller", "user_frame"]

_MACHINERY = frozenset({"gevent", "greenkit", "importlib", "runpy"})


class Frame(NamedTuple):
    """Say where one function of the stack stood.

    Attributes:
        module: Its module's name.
        package: What its relative imports are relative to.
        code: Its code object.
        line: The line it had reached.
    """

    module: str
    package: str
    code: CodeType
    line: int

    @property
    def place(self) -> str:
        """Return `file:line`."""
        return f"{self.code.co_filename}:{self.line}"


class PatchCall(NamedTuple):
    """State who asked for a patch, and how.

    Attributes:
        frames: The stack without gevent, greenkit and the import system, innermost first.
        settings: The arguments of `patch_all`; {} when they are not known.
        main_thread: It was asked for in the main thread.
    """

    frames: tuple[Frame, ...]
    settings: Mapping[str, bool]
    main_thread: bool = True

    @property
    def place(self) -> str:
        """Return `file:line` that asked, "" when nobody is known."""
        return self.frames[0].place if self.frames else ""


def _outside_frames() -> Iterator[Frame]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = frame.f_globals
        module = str(names.get("__name__", ""))
        file = frame.f_code.co_filename
        if module.partition(".")[0] not in _MACHINERY and not file.startswith("<frozen"):
            yield Frame(module, str(names.get("__package__") or ""), frame.f_code, frame.f_lineno)
        frame = frame.f_back


def outside_caller() -> str:
    """Return `file:line` of the innermost frame that is neither gevent's nor ours, or "".

    Switches: never.
    """
    return next((frame.place for frame in _outside_frames()), "")


def note_call(settings: Mapping[str, bool] | None = None, *, main_thread: bool = True) -> PatchCall:
    """Return who asks for a patch now.

    Switches: never.
    """
    return PatchCall(tuple(_outside_frames()), dict(settings or {}), main_thread)


def user_frame() -> str:
    """Return `file:line` of the innermost frame that is the user's own, or "".

    Switches: never.
    """
    return next((frame.place for frame in _outside_frames() if not is_library(frame.module)), "")
