"""Greenlets and asyncio tasks a task starts: they inherit its context, and are not forgotten when it ends.

gevent gives a greenlet the dictionary `spawn_tree_locals` of the one that spawned it, and calls us
at each start (both public since gevent 1.4). Raw greenlets (`spawn_raw`) are not seen. Coroutines run in the
greenlet of their loop, which belongs to no task; what they start is told by the context they run in.
"""

from __future__ import annotations

import contextvars
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import gevent
from celery.utils.log import get_logger

from greenkit import aio, facts
from greenkit.celery._services import coroutine_serves_the_process, serves_the_process

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["Children", "Owner", "here_runs", "job_here", "job_of", "unwatch_spawns", "watch_spawns"]

_logger = get_logger(__name__)
_KEY = "greenkit.celery.job"
# What was told of once: (task, function). A task that leaks does so every time it runs.
_told: set[tuple[str, str]] = set()
# Weak: what a client leaves on the loop for good keeps the context it was made in.
_job_here: contextvars.ContextVar[weakref.ref[Owner] | None] = contextvars.ContextVar(_KEY, default=None)
_KILL_GRACE = 1.0


_unwatch: list[Callable[[], None]] = []


class Owner(Protocol):
    """Name what this file needs of a `Job`."""

    greenlet: Any
    children: Children

    @property
    def home(self) -> str:
        """Return the package its task is defined in."""


def watch_spawns() -> None:
    """Have every greenlet and asyncio task that is started from now on belong to the task that starts it.

    Switches: never.
    """
    gevent.Greenlet.add_spawn_callback(_on_spawn)
    _unwatch.append(aio.watch_tasks(_on_asyncio_task))


def unwatch_spawns() -> None:
    """Leave greenlets that are started from now on alone.

    Switches: never.
    """
    gevent.Greenlet.remove_spawn_callback(_on_spawn)
    while _unwatch:
        _unwatch.pop()()


def job_of(greenlet: Any) -> Owner | None:
    """Return the job of the task that `greenlet`, or the one it descends from, runs for.

    Switches: never.
    """
    tree = getattr(greenlet, "spawn_tree_locals", None)
    return tree.get(_KEY) if tree else None


def here_runs(job: Owner) -> None:
    """Note that the running greenlet runs `job`; coroutines it awaits inherit the note with its context.

    Switches: never.
    """
    _job_here.set(weakref.ref(job))


def job_here() -> Owner | None:
    """Return the job in whose context this code runs, for coroutines: their greenlet is the loop's.

    Switches: never.
    """
    noted = _job_here.get()
    return noted() if noted is not None else None


def _on_asyncio_task(task: Any) -> None:
    job = job_here()
    if job is None or job.greenlet is None:  # it has ended: whose client lives on makes tasks in its context
        return
    if not coroutine_serves_the_process(task.get_coro(), job.home):
        job.children.add(task)


def _on_spawn(greenlet: Any) -> None:
    job = job_of(greenlet) or job_here()
    if job is None or greenlet is job.greenlet:
        return
    if serves_the_process(greenlet, job.home):
        greenlet.spawn_tree_locals = {}
        return
    if greenlet.gr_context is None:  # a GreenPool's child brings one that says whose it is
        # OpenTelemetry's current span, structlog's fields: gevent starts greenlets without them.
        greenlet.gr_context = contextvars.copy_context()
    greenlet.spawn_tree_locals[_KEY] = job  # started in a coroutine, the loop's greenlet gave it none
    job.children.add(greenlet)


class Children:
    """Hold the greenlets and asyncio tasks of one Celery task, weakly."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started: weakref.WeakSet[Any] | None = None

    def root(self, greenlet: Any, job: Owner) -> None:
        """Make `greenlet` the task's own, from which the others descend."""
        greenlet.spawn_tree_locals = {_KEY: job}

    def add(self, child: Any) -> None:
        """Take in a greenlet or asyncio task that is being started.

        Switches: never.
        """
        if self._started is None:  # most tasks start none
            self._started = weakref.WeakSet()
        self._started.add(child)

    def alive(self) -> list[Any]:
        """Return those that have not ended.

        Switches: never.
        """
        return [*self._greenlets(), *self._asyncio_tasks()]

    def _greenlets(self) -> list[Any]:
        return [
            child for child in self._started or () if isinstance(child, gevent.Greenlet) and not child.ready()
        ]

    def _asyncio_tasks(self) -> list[Any]:
        return [
            child
            for child in self._started or ()
            if not isinstance(child, gevent.Greenlet) and not child.done()
        ]

    def settle(self, policy: str, task: str) -> None:
        """Deal with those a task leaves behind as its body ends: "report", "kill" or "join" them.

        Switches: may.
        """
        if policy == "ignore" or not (left := self.alive()):
            return
        if policy != "join":
            _left_behind.left += len(left)
        if policy == "join":
            while self.alive():  # again for those they start as they end
                gevent.joinall(self._greenlets())
                aio.end_tasks(self._asyncio_tasks())
        elif policy == "kill":
            gevent.killall(self._greenlets(), block=True, timeout=_KILL_GRACE)
            aio.end_tasks(self._asyncio_tasks(), cancel=True, timeout=_KILL_GRACE)
        else:
            _report(left, task)


@dataclass(frozen=True, slots=True)
class ChildrenStatistics:
    """Count what tasks left behind.

    Attributes:
        left: Greenlets and asyncio tasks that still ran when their task ended, reported or killed.
    """

    left: int


class _LeftBehind:
    """The count, among the facts."""

    name = "celery"

    def __init__(self) -> None:
        self.left = 0
        facts.register("children", self)

    def statistics(self) -> ChildrenStatistics:
        return ChildrenStatistics(self.left)


_left_behind = _LeftBehind()


def _report(left: list[Any], task: str) -> None:
    for kind, function in {_name_of(child) for child in left}:
        if (task, function) in _told:
            continue
        _told.add((task, function))
        _logger.warning(
            "task %s ended and left %s of %s running: it outlives the task's limits, its "
            'result and its acknowledgement. Join it in the task, or install(app, children="join") '
            'or "kill"; "ignore" ends this message, which comes once',
            task,
            kind,
            function,
        )


def _name_of(child: Any) -> tuple[str, str]:
    if not isinstance(child, gevent.Greenlet):
        coroutine = child.get_coro()
        frame = getattr(coroutine, "cr_frame", None)
        module = frame.f_globals.get("__name__", "") if frame is not None else type(coroutine).__module__
        return "an asyncio task", f"{module}.{getattr(coroutine, '__qualname__', type(coroutine).__name__)}"
    run: Any = getattr(child, "_run", None)
    run = getattr(run, "func", run)  # of functools.partial
    named: Any = run if hasattr(run, "__qualname__") else type(run)
    return "a greenlet", f"{named.__module__}.{named.__qualname__}"
