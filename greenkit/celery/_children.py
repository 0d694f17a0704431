"""Greenlets a task starts: they inherit its context, and are not forgotten when it ends.

gevent gives a greenlet the dictionary `spawn_tree_locals` of the one that spawned it, and calls us
at each start (both public since gevent 1.4). Raw greenlets (`spawn_raw`) are not seen.
"""

from __future__ import annotations

import contextvars
import weakref
from typing import TYPE_CHECKING, Any

import gevent
from celery.utils.log import get_logger

from greenkit.celery._services import serves_the_process

if TYPE_CHECKING:
    from greenkit.celery._job import Job

__all__ = ["Children", "job_of", "unwatch_spawns", "watch_spawns"]

_logger = get_logger(__name__)
_KEY = "greenkit.celery.job"
# What was told of once: (task, function). A task that leaks does so every time it runs.
_told: set[tuple[str, str]] = set()


def watch_spawns() -> None:
    """Have every greenlet that is started from now on inherit what its task has.

    Switches: never.
    """
    gevent.Greenlet.add_spawn_callback(_on_spawn)


def unwatch_spawns() -> None:
    """Leave greenlets that are started from now on alone.

    Switches: never.
    """
    gevent.Greenlet.remove_spawn_callback(_on_spawn)


def job_of(greenlet: Any) -> Job | None:
    """Return the job of the task that `greenlet`, or the one it descends from, runs for.

    Switches: never.
    """
    tree = getattr(greenlet, "spawn_tree_locals", None)
    return tree.get(_KEY) if tree else None


def _on_spawn(greenlet: Any) -> None:
    job = job_of(greenlet)
    if job is None or greenlet is job.greenlet:
        return
    if serves_the_process(greenlet, job.home):
        greenlet.spawn_tree_locals = {}
        return
    if greenlet.gr_context is None:  # a GreenPool's child brings one that says whose it is
        # OpenTelemetry's current span, structlog's fields: gevent starts greenlets without them.
        greenlet.gr_context = contextvars.copy_context()
    job.children.add(greenlet)


class Children:
    """Hold the greenlets of one task, weakly."""

    __slots__ = ("_greenlets",)

    def __init__(self) -> None:
        self._greenlets: weakref.WeakSet[Any] | None = None

    def root(self, greenlet: Any, job: Job) -> None:
        """Make `greenlet` the task's own, from which the others descend."""
        greenlet.spawn_tree_locals = {_KEY: job}

    def add(self, greenlet: Any) -> None:
        """Take in one that is being started.

        Switches: never.
        """
        if self._greenlets is None:  # most tasks start none
            self._greenlets = weakref.WeakSet()
        self._greenlets.add(greenlet)

    def alive(self) -> list[Any]:
        """Return those that have not ended.

        Switches: never.
        """
        return [one for one in self._greenlets or () if not one.ready()]

    def settle(self, policy: str, task: str) -> None:
        """Deal with those a task leaves behind as its body ends: "report", "kill" or "join" them.

        Switches: may.
        """
        if policy == "ignore" or not (left := self.alive()):
            return
        if policy == "join":
            while left := self.alive():  # again for those they start as they end
                gevent.joinall(left)
        elif policy == "kill":
            gevent.killall(left, block=True, timeout=1.0)
        else:
            _report(left, task)


def _report(left: list[Any], task: str) -> None:
    for function in {_name_of(one) for one in left}:
        if (task, function) in _told:
            continue
        _told.add((task, function))
        _logger.warning(
            "task %s ended and left a greenlet of %s running: it outlives the task's limits, its "
            'result and its acknowledgement. Join it in the task, or install(app, children="join") '
            'or "kill"; "ignore" ends this message, which comes once',
            task,
            function,
        )


def _name_of(greenlet: Any) -> str:
    run: Any = getattr(greenlet, "_run", None)
    run = getattr(run, "func", run)  # of functools.partial
    named: Any = run if hasattr(run, "__qualname__") else type(run)
    return f"{named.__module__}.{named.__qualname__}"
