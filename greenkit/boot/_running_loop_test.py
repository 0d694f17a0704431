"""Try whether the running loop belongs to the greenlet, in a hub of its own.

Called by `_running_loop` in a native thread. For each way to wait, one greenlet puts a marker in the slot and
waits, another sees the slot empty throughout, and the first finds its marker again.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult, Event
from gevent.hub import get_hub
from gevent.lock import Semaphore
from gevent.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WAITS", "run"]

_SHORT = 0.0005  # seconds
_LIMIT = 3.0  # seconds; the thread must not go on when its greenlets misbehave


def run() -> str:
    """Return what went wrong first, or "" when every wait kept the slots apart; destroys the thread's hub.

    Switches: may, in this thread's hub.
    """
    hub = get_hub()
    try:
        with gevent.Timeout(_LIMIT, RuntimeError(f"no end within {_LIMIT:g} s")):
            return _run()
    finally:
        hub.destroy(destroy_loop=True)


def _run() -> str:
    for name, wait in WAITS.items():
        failed = _try(wait)
        if failed:
            return f"{name}: {failed}"
    return ""


def _try(wait: Callable[[], object]) -> str:
    events: Any = sys.modules.get("_asyncio") or sys.modules["asyncio.events"]
    get, put = events._get_running_loop, events._set_running_loop
    marker, hook = object(), _nothing
    said: list[str] = []
    waiting = [True]
    looked = []

    def hold() -> None:
        put(marker)
        sys.set_asyncgen_hooks(hook, hook)
        try:
            wait()
        finally:
            if get() is not marker or sys.get_asyncgen_hooks() != (hook, hook):
                said.append("the greenlet lost its own loop or its async-generator hooks")
            put(None)
            sys.set_asyncgen_hooks(None, None)
            waiting.clear()

    def look() -> None:
        while waiting and not said:
            looked.append(True)
            if get() is not None or sys.get_asyncgen_hooks() != (None, None):
                said.append("another greenlet sees the loop or its async-generator hooks")
            # `idle` returns only when nobody else is ready to run.
            gevent.sleep(0 if len(looked) < 3 else _SHORT / 5)

    holder, onlooker = gevent.spawn(hold), gevent.spawn(look)
    if wait is _be_killed:
        gevent.sleep(_SHORT)
        holder.kill()
    gevent.joinall([holder, onlooker])
    if not looked:
        return "no other greenlet ran while it waited"
    return said[0] if said else ""


def _nothing(_: object) -> None:
    """Stand for a hook of a loop."""


def _time_out() -> None:
    with gevent.Timeout(_SHORT, False):
        Event().wait()


def _get_result() -> None:
    with gevent.Timeout(_SHORT, False):
        AsyncResult().get()


def _get_from_queue() -> None:
    with gevent.Timeout(_SHORT, False):
        Queue().get()


def _be_killed() -> None:
    Event().wait()


def _wait_for_a_descriptor() -> None:
    reader, writer = os.pipe()
    try:
        io = get_hub().loop.io(reader, 1)
        os.write(writer, b"x")
        get_hub().wait(io)
        io.close()
    finally:
        os.close(reader)
        os.close(writer)


WAITS: dict[str, Callable[[], object]] = {
    "sleep(0)": lambda: gevent.sleep(0),
    "sleep": lambda: gevent.sleep(_SHORT),
    "idle": gevent.idle,
    "Event.wait with a timeout": lambda: Event().wait(_SHORT),
    "AsyncResult.get": _get_result,
    "Timeout": _time_out,
    "Semaphore.acquire": lambda: Semaphore(0).acquire(timeout=_SHORT),
    "Greenlet.join": lambda: gevent.spawn(gevent.sleep, _SHORT).join(),
    "Queue.get": _get_from_queue,
    "a descriptor": _wait_for_a_descriptor,
    "kill": _be_killed,
}
"""Name → a way to wait."""
