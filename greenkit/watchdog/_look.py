"""Sample a blocked thread: which line, which C call, which greenlet, which task.

A `Look` holds strings and code objects, never frames. `common()` compares two looks at one block. Runs in
the watchdog's native thread, so it reads objects of the user's code but calls none of them.
"""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from gevent import Greenlet
from gevent.hub import Hub

from greenkit.watchdog._call import name_call
from greenkit.watchdog._frames import running_greenlet, take

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

__all__ = ["Culprit", "Look", "Spot", "common", "culprit", "label", "look", "spawned", "spot"]

_OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_LIBRARY = tuple(
    {
        real(sysconfig.get_path(name)) + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
        for real in (str, os.path.realpath)
    }
)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_TRACE = f"{os.sep}celery{os.sep}app{os.sep}trace.py"
_COMPILERS = (
    f"{os.sep}re{os.sep}_compiler.py",
    f"{os.sep}sre_compile.py",
    f"{os.sep}django{os.sep}template{os.sep}base.py",
    f"{os.sep}jinja2{os.sep}environment.py",
    f"{os.sep}mako{os.sep}template.py",
)
_COMPILES = frozenset({"_code", "_compile", "_compile_text", "compile", "compile_nodelist", "parse"})
_IDLE = Hub.run.__code__
"""The code a hub's thread runs while it waits for its loop: no block."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One line of a stack.

    Attributes:
        code: The code object.
        line: Line number.
        offset: Offset of the instruction, -1 when unknown.
        module: Name of its module, "" when unknown.
    """

    code: CodeType
    line: int
    offset: int = -1
    module: str = ""

    def __str__(self) -> str:
        return f"{self.code.co_filename}:{self.line} {self.function}"

    @property
    def function(self) -> str:
        """Return the function's qualified name (from Python 3.11 on), else its name."""
        return str(getattr(self.code, "co_qualname", self.code.co_name))

    @property
    def users(self) -> bool:
        """Tell whether it is the user's own code, not a library's, a script's or greenkit's."""
        file = self.code.co_filename
        library = file.startswith((*_LIBRARY, _OURS, "<")) or any(part in file for part in _PACKAGES)
        return not library


@dataclass(frozen=True, slots=True)
class Look:
    """One sample of a blocked thread.

    Attributes:
        spots: Its stack, innermost first; () when only C code runs.
        call: The C function it is in as `module.name`, "" when not sure.
        task: `name[id]` of the Celery task it runs, "" when none.
    """

    spots: tuple[Spot, ...]
    call: str = ""
    task: str = ""

    @property
    def users(self) -> bool:
        """Tell whether any spot is the user's own code."""
        return any(spot.users for spot in self.spots)

    @property
    def startup(self) -> str:
        """Return the one-time work it does: `an import`, `a compilation`; "" for neither."""
        codes = [spot.code for spot in self.spots]
        if any(code.co_filename.startswith("<frozen importlib") for code in codes):
            return "an import"
        compiles = (code.co_name in _COMPILES and code.co_filename.endswith(_COMPILERS) for code in codes)
        return "a compilation" if any(compiles) else ""


@dataclass(frozen=True, slots=True)
class Culprit:
    """The greenlet that blocks: what it runs, and the user's innermost line in its spawning stack."""

    text: str
    spawned: Spot | None = None


def look(thread: int) -> Look | None:
    """Return what `thread` executes now; None while it waits in its hub."""
    taken = take(thread)
    if not taken:
        return Look(())
    frame, (code, _, offset) = taken[0]
    if code is _IDLE:
        return None
    return Look(tuple(_spots(taken)), name_call(frame, offset), _task(taken))


def common(first: Look, second: Look) -> Look | None:
    """Return the frames two looks at one block share, so that a busy loop's helper is not blamed.

    Compares functions from the outermost frame inwards; line numbers are the second look's. None when they
    share nothing: two greenlets ran.
    """
    shared = 0
    for former, later in zip(reversed(first.spots), reversed(second.spots), strict=False):
        if former.code is not later.code:
            break
        shared += 1
        if former.line != later.line:
            # The same function on another line is shared; its callees are not.
            break
    if not shared:
        return second if not first.spots and not second.spots else None
    spots = second.spots[len(second.spots) - shared :]
    same = first.call == second.call and len(spots) == len(first.spots) == len(second.spots)
    return replace(second, spots=spots, call=second.call if same else "")


def spot(seen: Look, by: Culprit | None) -> Spot | None:
    """Return the line to blame: the user's innermost, the one that spawned the greenlet, or the innermost."""
    users = next((candidate for candidate in seen.spots if candidate.users), None)
    return users or (by.spawned if by else None) or (seen.spots[0] if seen.spots else None)


def culprit(hub: Any) -> Culprit | None:
    """Return the greenlet that runs now in `hub`'s thread; None when unknown."""
    running = running_greenlet(hub)
    if running is None:
        return None
    if running is hub.parent:
        return Culprit("the main greenlet")
    return Culprit(label(running), spawned(running))


def label(target: Any) -> str:
    """Return what a greenlet runs, without calling any of its code."""
    if not issubclass(type(target), Greenlet):
        return f"<{type(target).__name__} {id(target):#x}>"
    own = object.__getattribute__(target, "__dict__")
    name = own.get("name")
    called = name if type(name) is str else f"{id(target):#x}"
    return f"<{type(target).__name__} {called}: {_target(own.get('_run'))}>"


def _spots(taken: Iterable[tuple[FrameType, tuple[CodeType, int, int]]]) -> Iterable[Spot]:
    for frame, (code, line, offset) in taken:
        module = frame.f_globals.get("__name__")
        yield Spot(code, line or 0, offset, module if type(module) is str else "")


def _task(taken: Iterable[tuple[FrameType, tuple[CodeType, int, int]]]) -> str:
    # celery/app/trace.py 5.5-5.7: every task runs below build_tracer's trace_task(uuid, ...).
    for frame, (code, _, _) in taken:
        if code.co_name == "trace_task" and code.co_filename.endswith(_TRACE):
            names = frame.f_locals
            task = names.get("task")
            name = inspect.getattr_static(task, "name", "") if task is not None else ""
            return f"{name}[{names.get('uuid')}]" if type(name) is str else ""
    return ""


def _target(run: Any) -> str:
    """Return `module.function` of a greenlet's target, with the name of the thread when it is a thread's."""
    if type(run) is MethodType:
        owner = inspect.getattr_static(run.__self__, "_name", "")
        label = f" of {owner}" if type(owner) is str and owner else ""
        return f"{_target(run.__func__)}{label}"
    if type(run) is FunctionType:
        return f"{run.__module__}.{run.__qualname__}"
    return "its own run()" if run is None else f"a {type(run).__name__}"


def spawned(target: Any) -> Spot | None:
    """Return the user's innermost line in a greenlet's spawning stack (gevent keeps up to 10 frames)."""
    if not issubclass(type(target), Greenlet):
        return None
    frame = object.__getattribute__(target, "spawning_stack")
    while frame is not None:
        kept = Spot(frame.f_code, frame.f_lineno)
        if kept.users:
            return replace(kept, module=_module(kept.code.co_filename))
        frame = frame.f_back
    return None


def _module(file: str) -> str:
    for name, module in list(sys.modules.items()):
        if type(module) is ModuleType and vars(module).get("__file__") == file:
            return name
    return ""
