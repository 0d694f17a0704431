"""Make `GreenLoop` the loop that asyncio gives out, and keep uvloop from stopping the hub.

`install_loop()` is called when `asyncio.unix_events` has been imported, in the middle of `import asyncio`:
what needs the whole package is imported when the first loop is asked for.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from greenkit.boot import loop_isolation

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install_loop", "replace_uvloop", "uninstall_loop"]

_log = logging.getLogger("greenkit.aio")
_undo: list[Callable[[], None]] = []


def install_loop() -> None:
    """Have asyncio's default policy give out loops that wait in the hub.

    Not when greenlets share the running loop (`GREENKIT_ASYNCIO`, or a failed self-test), nor when asyncio's
    private names have changed: its own loop on gevent's selector works, at more cost.

    Switches: never.
    """
    policy: Any = getattr(sys.modules["asyncio.unix_events"], "_UnixDefaultEventLoopPolicy", None)
    if _undo or not loop_isolation().installed or not hasattr(policy, "_loop_factory"):
        return
    own = policy.__dict__["_loop_factory"]
    policy._loop_factory = staticmethod(_make_loop)
    _undo.append(lambda: setattr(policy, "_loop_factory", own))
    _give_greenlets_a_current_loop(policy)


def uninstall_loop() -> None:
    """Put asyncio's own loop back; loops that exist stay what they are.

    Switches: never.
    """
    while _undo:
        _undo.pop()()


def _make_loop() -> Any:
    # Late: see the module's docstring.
    from greenkit.aio._green_loop import new_loop

    return new_loop()


def _give_greenlets_a_current_loop(policy: Any) -> None:
    """Make `asyncio.set_event_loop()` the greenlet's own where asyncio was imported before the patch."""
    import threading  # patched by now: its `local` is the greenlet's

    if issubclass(policy._Local, threading.local):
        return
    old_class = policy._Local
    policy._Local = type("_Local", (threading.local,), {"_loop": None, "_set_called": False})
    _undo.append(lambda: setattr(policy, "_Local", old_class))
    current = getattr(sys.modules["asyncio.events"], "_event_loop_policy", None)
    if current is not None:
        current._local = policy._Local()


def replace_uvloop() -> None:
    """Have uvloop give out `GreenLoop` where greenlets live; called when it has been imported.

    uvloop waits in libuv, outside gevent: each wait would stop every greenlet of the thread. A native thread
    without a hub still gets uvloop's own.

    Switches: never.
    """
    uvloop: Any = sys.modules["uvloop"]
    own = uvloop.new_event_loop
    if getattr(own, "greenkit", False):
        return
    told: list[bool] = []

    def new_event_loop() -> Any:
        # Late: a process that imports uvloop and never asks it for a loop needs neither.
        from greenkit.aio._green_loop import GreenLoop, greenlets_live_here

        if not loop_isolation().installed or not greenlets_live_here():
            return own()
        if not told:
            told.append(True)
            _log.warning(
                "uvloop waits outside gevent's hub and would stop every greenlet of this thread; an asyncio"
                " loop that waits in the hub is used in its place. Remove uvloop from this process, or run it"
                " in a native thread: greenkit.offload(uvloop.run, main())"
            )
        return GreenLoop()

    new_event_loop.greenkit = True  # type: ignore[attr-defined]
    uvloop.new_event_loop = new_event_loop
