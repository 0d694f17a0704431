"""The one record a process keeps of how it was patched.

Written by `_patch` and `_events`, read by everybody else. Nothing here decides anything.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from greenkit.boot._shown import is_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import CodeType, FrameType
    from typing import Any
    from weakref import ref

    from greenkit.findings import Finding

__all__ = [
    "RECORD",
    "EarlyModule",
    "Frame",
    "NativeThread",
    "PatchCall",
    "PatchReport",
    "Record",
    "note_call",
    "outside_caller",
    "user_frame",
]

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


class EarlyModule(NamedTuple):
    """Name a patchable module that was imported before the patch.

    Attributes:
        name: The module gevent patches.
        importer: `file:line (import x)` of the user's import that brought it, or "".
    """

    name: str
    importer: str = ""


class PatchReport(NamedTuple):
    """State what `patch()` found and did; the first one is the only one.

    Attributes:
        patched: The process is cooperative now.
        by: `file:line` of whoever asked for the patch (Celery's, when Celery patched).
        early: Patchable modules that were imported before the patch.
        findings: What the evidence says about this process.
        repaired: Names that were bound again, as `module.attribute`.
        seconds: How long patching took, without the evidence.
    """

    patched: bool
    by: str = ""
    early: tuple[EarlyModule, ...] = ()
    findings: tuple[Finding, ...] = ()
    repaired: tuple[str, ...] = ()
    seconds: float = 0.0


class NativeThread(NamedTuple):
    """Name a thread that ran before the patch.

    Attributes:
        name: The thread's name.
        module: Module of what it runs, or of its class; "" when unknown.
        function: Qualified name of what it runs, or of its class.
    """

    name: str
    module: str = ""
    function: str = ""


class Record:
    """Hold what is known about the patch of this process.

    Attributes:
        calls: Every `patch_all()` that was announced, the first one first.
        early: Patchable modules that were loaded before the first of them.
        started: Clock reading when the first began, None before it.
        seconds: How long patching took.
        modules: Who was loaded when the patch was done: a later holder of an original asked for it.
        natives: Weak references to the native objects that were alive when a patch began.
        native_threads: Threads that ran when the patch began.
        warnings: What gevent warned about.
        mending: A repair is under way.
        repaired: What `repair()` changed, a line each.
        report: What `patch()` returned.
    """

    __slots__ = (
        "calls",
        "early",
        "mending",
        "modules",
        "native_threads",
        "natives",
        "repaired",
        "report",
        "seconds",
        "started",
        "warnings",
    )

    def __init__(self) -> None:
        self.calls: tuple[PatchCall, ...] = ()
        self.early: tuple[str, ...] = ()
        self.started: float | None = None
        self.seconds = 0.0
        self.modules: frozenset[str] = frozenset()
        self.natives: tuple[ref[Any], ...] = ()
        self.native_threads: tuple[NativeThread, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.repaired: tuple[str, ...] = ()
        self.mending = False
        self.report: PatchReport | None = None

    @property
    def by(self) -> str:
        """Return `file:line` of whoever asked first, "" when nobody was seen."""
        return self.calls[0].place if self.calls else ""


RECORD = Record()
"""The record of this process: one, because a process is patched once."""
