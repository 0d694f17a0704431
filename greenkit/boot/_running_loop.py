"""Give each greenlet a running asyncio loop of its own.

asyncio keeps the running loop, and the async-generator hooks, in a slot of the native thread. The greenlets
of a patched process share one thread, so a loop that waits in one greenlet is "running" for all of them:
`asyncio.run()` is refused, asgiref's `async_to_sync` is refused, and Django's ORM raises
SynchronousOnlyOperation in code that never heard of asyncio. Every gevent wait leaves its greenlet through
`Hub.switch()`, so saving the slot before that call and restoring it after makes the slot the greenlet's own.

Armed when `asyncio.events` is imported and tested at once, in a hub of a native thread that nobody else uses,
so that no greenlet of the program runs early; given up when a test fails. Hub.switch itself is replaced when
the first loop runs: Django imports asyncio everywhere, and a process that runs no loop pays nothing.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["LoopIsolation", "isolate_loops", "loop_isolation", "share_loops"]

_SELF_TEST_LIMIT = 5.0  # seconds; the test takes some milliseconds


class LoopIsolation(NamedTuple):
    """Say whether each greenlet has a running loop of its own.

    Attributes:
        mode: `GREENKIT_ASYNCIO`: "on", "warn" or "off".
        installed: The slot is swapped at every switch of the hub.
        failed: Why it is not although `mode` is "on"; "" otherwise.
    """

    mode: str
    installed: bool
    failed: str = ""


_state = LoopIsolation("on", installed=False)
_replaced: list[tuple[type, Any]] = []  # (hub class, its own switch() or None when it inherited one)
_disarm: list[Callable[[], None]] = []


def loop_isolation() -> LoopIsolation:
    """Return how asyncio and the greenlets of this process stand to each other.

    Switches: never.
    """
    return _state


def isolate_loops(mode: str | None = None) -> LoopIsolation:
    """Make the running loop belong to the greenlet; called when `asyncio.events` has been imported.

    A second call changes nothing. When the self-test fails, `Hub.switch` is put back and `failed` says why:
    the findings of the doctor report it.

    Args:
        mode: "on", "warn" (asyncio stays as it is; the first wait of a loop in a greenlet is logged) or
        "off".
            None reads `GREENKIT_ASYNCIO`, "on" without it.

    Raises:
        ConfigError: `mode` is none of the three.

    Switches: never; the self-test runs in a native thread.
    """
    global _state  # noqa: PLW0603 - a process has one Hub class
    # Late: pure, and read only in a process that imports asyncio.
    from greenkit.boot._settings import asyncio_mode

    chosen = asyncio_mode({"GREENKIT_ASYNCIO": mode} if mode is not None else os.environ)
    if _replaced or _disarm:
        return _state
    _state = LoopIsolation(chosen, installed=False)
    if chosen == "off":
        return _state
    _replace(_switch_that_warns if chosen == "warn" else _switch_that_swaps)
    if chosen == "on":
        failed = _self_test()
        # Not where asyncio is older than the patch: others may hold the function that is wrapped. Of
        # base_events, which imports events, a part is there already.
        if not failed and not hasattr(sys.modules.get("asyncio.base_events"), "BaseEventLoop"):
            _put_back()
            _arm()
        if failed:
            share_loops()
            _log(
                f"asyncio's running loop could not be given to each greenlet ({failed}); it stays shared by"
                " the thread: a second asyncio.run() and Django's ORM are refused while a loop runs in a"
                " greenlet. Run such loops with greenkit.offload(asyncio.run, ...), or set"
                " GREENKIT_ASYNCIO=off to silence this."
            )
        _state = LoopIsolation(chosen, installed=not failed, failed=failed)
    return _state


def share_loops() -> None:
    """Undo `isolate_loops()`: the running loop belongs to the native thread again.

    Loops that run meanwhile keep their slot until their greenlet waits the next time.

    Switches: never.
    """
    global _state  # noqa: PLW0603 - see isolate_loops()
    while _disarm:
        _disarm.pop()()
    _put_back()
    _state = LoopIsolation(_state.mode, installed=False)


def _put_back() -> None:
    while _replaced:
        hub_class, own = _replaced.pop()
        if own is not None:
            hub_class.switch = own  # type: ignore[attr-defined]
        else:
            del hub_class.switch  # type: ignore[attr-defined]


def _arm() -> None:
    """Replace `Hub.switch` when the first loop begins to run: each says so through `asyncio.events`."""
    events: Any = sys.modules["asyncio.events"]
    plain = events._set_running_loop

    def _set_running_loop(loop: Any) -> None:
        if loop is not None and _disarm and not _replaced:
            _replace(_switch_that_swaps)
        plain(loop)

    def disarm() -> None:
        if events._set_running_loop is _set_running_loop:
            events._set_running_loop = plain

    events._set_running_loop = _set_running_loop
    _disarm.append(disarm)


def _replace(make: Callable[[Any], Any]) -> None:
    # Late: gevent must not be imported before the patch.
    from gevent._hub_local import get_hub_class
    from gevent.hub import Hub

    for hub_class in dict.fromkeys((Hub, get_hub_class() or Hub)):
        for owner in [base for base in hub_class.__mro__ if base is Hub or "switch" in vars(base)]:
            # gevent's compiled base cannot be written to, and a class is wrapped once.
            if owner.__flags__ & _HEAP_TYPE and all(owner is not done for done, _ in _replaced):
                own = vars(owner).get("switch")
                _replaced.append((owner, own))
                owner.switch = make(own if own is not None else owner.switch)


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class whose attributes may be set


def _switch_that_swaps(plain: Any) -> Any:
    # The C functions themselves: a tool may have wrapped the names in asyncio.events.
    events: Any = sys.modules.get("_asyncio") or sys.modules["asyncio.events"]
    get, put = events._get_running_loop, events._set_running_loop
    get_hooks, set_hooks = sys.get_asyncgen_hooks, sys.set_asyncgen_hooks
    # CPython 3.14 keeps the current task in the thread's state, too; before, in a dict keyed by loop.
    swap_task: Any = events._swap_current_task if sys.version_info >= (3, 14) else None

    def switch(self: Any) -> Any:
        loop = get()
        if loop is None:
            return plain(self)
        hooks = get_hooks()
        put(None)
        set_hooks(None, None)
        task = swap_task(loop, None) if swap_task is not None else None
        try:
            return plain(self)
        finally:  # also when GreenletExit or a Timeout is thrown in
            put(loop)
            set_hooks(*hooks)
            if task is not None:
                swap_task(loop, task)

    return switch


def _switch_that_warns(plain: Any) -> Any:
    events: Any = sys.modules.get("_asyncio") or sys.modules["asyncio.events"]
    get = events._get_running_loop
    told: list[bool] = []

    def switch(self: Any) -> Any:
        if not told and get() is not None:
            told.append(True)
            # Late: the warning is rare, and finding the user's line reads frames.
            from greenkit.boot._record import user_frame
            from greenkit.boot._shown import shown

            _log(
                f"{shown(user_frame())} waits in an asyncio loop in a greenlet; while it does, asyncio.run()"
                " and Django's ORM are refused in every other greenlet. GREENKIT_ASYNCIO=on gives each"
                " greenlet a running loop of its own."
            )
        return plain(self)

    return switch


def _log(sentence: str) -> None:
    # Late: only a process that has something to say needs logging here, and it is patched by now.
    import logging

    logging.getLogger("greenkit.boot").warning(sentence)


def _self_test() -> str:
    """Return why greenlets still share a running loop, or "" when each has its own."""
    # Late: all of gevent's; nothing the thread needs may be imported in it, because this thread holds
    # the import lock of asyncio.events and waits natively.
    from gevent.monkey import get_original

    from greenkit.boot import _running_loop_test as test

    start, lock = (get_original("_thread", name) for name in ("start_new_thread", "allocate_lock"))
    done = lock()
    done.acquire()
    told: list[str] = []

    def run() -> None:
        try:
            told.append(test.run())
        except BaseException as error:
            told.append(f"{type(error).__name__}: {error}")
        finally:
            done.release()

    start(run, ())
    if not done.acquire(True, _SELF_TEST_LIMIT):
        return f"the self-test did not end within {_SELF_TEST_LIMIT:g} s"
    return told[0]
