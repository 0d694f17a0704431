"""Which greenlets serve the process, whichever task happened to run when they were started.

A library starts some lazily, inside the first task that needs them: the one that reads results of
Celery's Redis and RPC backends, a tracer's exporter, the threads of an executor. Joined they hold up
that task for ever, and killed they fail every later one. No list of names is complete, so they are
told by how they are made: an object of a library starts code of its own library, and nothing of
what it starts is the project's.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
import threading
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["coroutine_serves_the_process", "serves_the_process"]

# Wrappers of tracers stand between a library and the thread it starts.
_FRAMES = 8
# What these start belongs to their caller: a group of greenlets, a timer's thread.
_FOR_THEIR_CALLER = frozenset({"gevent", "threading"})
_INSTALLED = ("site-packages", "dist-packages")
_STDLIB = sysconfig.get_path("stdlib")


def serves_the_process(greenlet: Any, home: str) -> bool:
    """Tell whether `greenlet`, which is being started, is no task's.

    Args:
        greenlet: A greenlet whose start is two calls above.
        home: The package of the task that runs here: the project's, also where it is installed.

    Switches: never.
    """
    run = getattr(greenlet, "_run", None)
    owner = getattr(run, "__self__", None)
    if isinstance(owner, threading.Thread):
        # It says so itself, or inherits it from the task's greenlet. A timer belongs to its caller.
        if owner.daemon and not isinstance(owner, threading.Timer):
            return True
        # What start() was given; tracers exchange `run` of the object, not of its class.
        run = (
            vars(owner).get("_target") or vars(owner).get("function") or type(owner).run
        )  # threading.Timer's
    elif owner is greenlet:  # a subclass, such as gevent.pool's IMap, which works for its caller
        return False
    function = _function(run)
    if function is None or _is_projects(function.__code__, function.__module__, home):
        return False
    if function.__module__.startswith("greenkit."):
        return _is_ours(function)
    if any(_is_projects_function(value, home) for value in getattr(greenlet, "args", ())):
        return False  # work of the project that a library runs, as gevent.pool's map_async()
    library = _root(function.__module__)
    return library not in _FOR_THEIR_CALLER and _started_by_its_own(library, sys._getframe(2), home)


def coroutine_serves_the_process(coroutine: Any, home: str) -> bool:
    """Tell whether `coroutine`, of which an asyncio task is being made, is a client's own and no task's.

    A Redis layer that receives, a session that closes idle connections: made by a method of their library.

    Args:
        coroutine: What the asyncio task will run.
        home: The package of the Celery task that runs here.

    Switches: never.
    """
    code = getattr(coroutine, "cr_code", None)
    if code is None or coroutine.cr_frame is None:
        return True  # C's, or a future that ends with what it waits for
    module = str(coroutine.cr_frame.f_globals.get("__name__", ""))
    if _is_projects(code, module, home):
        return False
    frame: FrameType | None = sys._getframe(1)
    # asyncio's own create_task() starts nothing of its own: the caller above it made the task.
    while frame is not None and _root(str(frame.f_globals.get("__name__", ""))) in {"greenkit", "asyncio"}:
        frame = frame.f_back
    return _root(module) == "greenkit" or _started_by_its_own(_root(module), frame, home)


def _started_by_its_own(library: str, frame: FrameType | None, home: str) -> bool:
    """Tell whether a method of `library` is among the callers, before any of the project's code."""
    for _ in range(_FRAMES):
        if frame is None:
            return False
        code, module = frame.f_code, str(frame.f_globals.get("__name__", ""))
        if _is_projects(code, module, home):
            return False
        # Not functions: those run for their caller, and what they start is the caller's.
        if _root(module) == library and code.co_varnames[:1] in {("self",), ("cls",)}:
            return True
        frame = frame.f_back
    return False


def _is_ours(function: FunctionType) -> bool:
    """Tell whether it is greenkit's own: the connection of a limiter, a signal's handler, aio's loop.

    Not public functions: those a task may have started itself; nor those that run a pool's work.
    """
    private = any(part[0] in "_<" for part in function.__qualname__.split("."))
    return private and not function.__module__.startswith("greenkit.pool.")


def _is_projects_function(value: Any, home: str) -> bool:
    function = _function(value) if callable(value) else None
    return function is not None and _is_projects(function.__code__, function.__module__, home)


def _function(run: Any) -> FunctionType | None:
    """Return the Python function that `run` comes to, None when it is C's."""
    while isinstance(run, functools.partial):
        run = run.func
    run = getattr(run, "__func__", run)
    if not isinstance(run, FunctionType):
        run = type(run).__call__ if callable(run) else None
    return run if isinstance(run, FunctionType) and run.__module__ else None


def _is_projects(code: CodeType, module: str, home: str) -> bool:
    root = _root(module)
    return root == home or not (root == "greenkit" or _is_installed(code.co_filename))


@functools.cache
def _is_installed(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    # "<frozen threading>" is the standard library's; "<string>" is code generated for a caller.
    return file.startswith((_STDLIB, "<frozen")) or any(name in parts for name in _INSTALLED)


def _root(module: str) -> str:
    return module.partition(".")[0]
