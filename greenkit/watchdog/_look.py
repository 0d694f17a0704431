"""What a look at the blocked thread says: whose line, which C call, which greenlet, which task.

A `Look` holds words and code objects, never frames. Two looks at one block are compared by
`common()`. Runs in the watchdog's native thread, so everything foreign is read, nothing is called.
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
"""The code a hub's thread is in while it waits for its loop: nobody's fault."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One line of a stack.

    Attributes:
        code: What runs there.
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
        """Return the function's qualified name where Python tells (3.11), else its name."""
        return str(getattr(self.code, "co_qualname", self.code.co_name))

    @property
    def users(self) -> bool:
        """Tell whether it is the user's own code: no library's, no script's around one, not ours."""
        file = self.code.co_filename
        library = file.startswith((*_LIBRARY, _OURS, "<")) or any(part in file for part in _PACKAGES)
        return not library


@dataclass(frozen=True, slots=True)
class Look:
    """One moment of a blocked thread.

    Attributes:
        spots: Its stack, innermost first; () in a greenlet that is all C.
        call: The C function it is in as `module.name`, "" when not sure.
        task: `name[id]` of the Celery task it runs, "" when none.
    """

    spots: tuple[Spot, ...]
    call: str = ""
    task: str = ""

    @property
    def users(self) -> bool:
        """Tell whether any of it is the user's own code."""
        return any(one.users for one in self.spots)

    @property
    def startup(self) -> str:
        """Return what a program does once and is at: `an import`, `a compilation`; "" for neither."""
        codes = [one.code for one in self.spots]
        if any(code.co_filename.startswith("<frozen importlib") for code in codes):
            return "an import"
        compiles = (code.co_name in _COMPILES and code.co_filename.endswith(_COMPILERS) for code in codes)
        return "a compilation" if any(compiles) else ""


@dataclass(frozen=True, slots=True)
class Culprit:
    """The greenlet that blocks: what it runs, and the user's innermost line of those that spawned it."""

    text: str
    spawned: Spot | None = None


def look(thread: int) -> Look | None:
    """Return what `thread` executes now; None while it waits in its hub.

    Switches: never.
    """
    taken = take(thread)
    if not taken:
        return Look(())
    frame, (code, _, offset) = taken[0]
    if code is _IDLE:
        return None
    return Look(tuple(_spots(taken)), name_call(frame, offset), _task(taken))


def common(first: Look, second: Look) -> Look | None:
    """Return what two looks at one block share, so that a busy loop's helper is not blamed.

    Compared from the outermost line inwards by function; lines are the second look's. None when they share
    nothing: then it was not one greenlet.
    """
    shared = 0
    for one, two in zip(reversed(first.spots), reversed(second.spots), strict=False):
        if one.code is not two.code:
            break
        shared += 1
        if one.line != two.line:
            # The same function on another line is shared; what it calls there is not.
            break
    if not shared:
        return second if not first.spots and not second.spots else None
    spots = second.spots[len(second.spots) - shared :]
    same = first.call == second.call and len(spots) == len(first.spots) == len(second.spots)
    return replace(second, spots=spots, call=second.call if same else "")


def spot(seen: Look, by: Culprit | None) -> Spot | None:
    """Return the line to blame: the user's innermost, or the one that spawned the greenlet, or anybody's."""
    users = next((one for one in seen.spots if one.users), None)
    return users or (by.spawned if by else None) or (seen.spots[0] if seen.spots else None)


def culprit(hub: Any) -> Culprit | None:
    """Return the greenlet that runs now in `hub`'s thread; None when it cannot be told.

    Switches: never.
    """
    one = running_greenlet(hub)
    if one is None:
        return None
    if one is hub.parent:
        return Culprit("the main greenlet")
    return Culprit(label(one), spawned(one))


def label(one: Any) -> str:
    """Return what a greenlet runs, without asking any code of its own."""
    if not issubclass(type(one), Greenlet):
        return f"<{type(one).__name__} {id(one):#x}>"
    own = object.__getattribute__(one, "__dict__")
    name = own.get("name")
    called = name if type(name) is str else f"{id(one):#x}"
    return f"<{type(one).__name__} {called}: {_target(own.get('_run'))}>"


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
    """Return `module.function` of what a greenlet was told to run; of a thread, its name too."""
    if type(run) is MethodType:
        owner = inspect.getattr_static(run.__self__, "_name", "")
        label = f" of {owner}" if type(owner) is str and owner else ""
        return f"{_target(run.__func__)}{label}"
    if type(run) is FunctionType:
        return f"{run.__module__}.{run.__qualname__}"
    return "its own run()" if run is None else f"a {type(run).__name__}"


def spawned(one: Any) -> Spot | None:
    """Return the user's innermost line among those gevent kept of a greenlet's spawning stack (up to 10)."""
    if not issubclass(type(one), Greenlet):
        return None
    frame = object.__getattribute__(one, "spawning_stack")
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
