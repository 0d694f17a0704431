"""Make `GreenLoop` asyncio's default loop, and keep uvloop from blocking the hub.

`install_loop()` is called after `asyncio.unix_events` was imported, in the middle of `import asyncio`: code
that needs the whole package is imported when the first loop is made.
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
    """Have asyncio's default policy make loops that wait in the hub.

    Does nothing when greenlets share the running loop (`GREENKIT_ASYNCIO`, or a failed self-test), or when
    asyncio's private names have changed: its own loop on gevent's selector works, at a higher cost.

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
    """Restore asyncio's own loop; existing loops are unchanged.

    Switches: never.
    """
    while _undo:
        _undo.pop()()


def _make_loop() -> Any:
    # Late: see the module's docstring.
    from greenkit.aio._green_loop import new_loop

    return new_loop()


def _give_greenlets_a_current_loop(policy: Any) -> None:
    """Make `asyncio.set_event_loop()` greenlet-local if asyncio was imported before the patch."""
    import threading  # patched by now: its `local` is greenlet-local

    if issubclass(policy._Local, threading.local):
        return
    old_class = policy._Local
    policy._Local = type("_Local", (threading.local,), {"_loop": None, "_set_called": False})
    _undo.append(lambda: setattr(policy, "_Local", old_class))
    current = getattr(sys.modules["asyncio.events"], "_event_loop_policy", None)
    if current is not None:
        current._local = policy._Local()


def replace_uvloop() -> None:
    """Have uvloop make a `GreenLoop` in threads with a hub; called after its import.

    uvloop waits in libuv, outside gevent: each wait would block every greenlet of the thread. A native thread
    without a hub still gets uvloop's own loop.

    Switches: never.
    """
    uvloop: Any = sys.modules["uvloop"]
    own = uvloop.new_event_loop
    if getattr(own, "greenkit", False):
        return
    warned: list[bool] = []

    def new_event_loop() -> Any:
        # Late: a process that imports uvloop without making a loop needs neither.
        from greenkit.aio._green_loop import GreenLoop, greenlets_live_here

        if not loop_isolation().installed or not greenlets_live_here():
            return own()
        if not warned:
            warned.append(True)
            _log.warning(
                "uvloop waits outside gevent's hub and would stop every greenlet of this thread; an asyncio"
                " loop that waits in the hub is used in its place. Remove uvloop from this process, or run it"
                " in a native thread: greenkit.offload(uvloop.run, main())"
            )
        return GreenLoop()

    new_event_loop.greenkit = True  # type: ignore[attr-defined]
    uvloop.new_event_loop = new_event_loop
