"""Notice an asyncio loop that begins to run in a greenlet.

The running loop is a property of the native thread. While one greenlet runs a loop, a second one is
refused, and Django's ORM refuses to work in every other greenlet. Only an observed process is watched:
`_set_running_loop` and `_get_running_loop` of `asyncio.events`, through which every loop written in Python
begins and `asyncio.run()` asks (3.10 to 3.13, `base_events.py` and `runners.py`), are wrapped.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gevent import getcurrent
from gevent.monkey import get_original

from greenkit import boot
from greenkit.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["watch_loops"]

_get_ident = get_original("_thread", "get_ident")


def watch_loops(tell: Callable[[Finding], object]) -> None:
    """Have `tell` called with a finding when a loop begins to run in this thread's greenlets.

    Switches: never.
    """
    thread = _get_ident()
    boot.on_import("asyncio.events", lambda: _wrap(tell, thread))


def _wrap(tell: Callable[[Finding], object], thread: int) -> None:
    events: Any = sys.modules["asyncio.events"]
    begin, ask = events._set_running_loop, events._get_running_loop
    runs: list[Any] = []  # the greenlet that runs the loop

    def set_running_loop(loop: Any) -> None:
        begin(loop)
        if _get_ident() == thread and not boot.loop_isolation().installed:
            runs[:] = [getcurrent()] if loop is not None else []
            if loop is not None:
                tell(_finding(boot.user_frame(), hurts="django.db" in sys.modules))

    def get_running_loop() -> Any:
        loop = ask()
        if loop is not None and runs and runs[0] is not getcurrent() and _get_ident() == thread:
            tell(_finding(boot.user_frame(), hurts=True))
        return loop

    events._set_running_loop, events._get_running_loop = set_running_loop, get_running_loop


def _finding(place: str, *, hurts: bool) -> Finding:
    # Alone it works; who is hurt is whoever asks "does a loop run here?" in another greenlet.
    return Finding(
        "GK123",
        Severity.WARNING if hurts else Severity.INFO,
        f"{boot.shown(place)} runs an asyncio loop in a greenlet; while it runs a second one, and Django's"
        " ORM, refuse to work in every other greenlet",
        hint="import greenkit.auto in line 1 gives each greenlet a running loop of its own (unless"
        " GREENKIT_ASYNCIO=off); or run the loop in a native thread: greenkit.offload(asyncio.run, main()).",
        where=place,
        rule="foreign-loop",
        effect="crashes",
        holder="asyncio",
        attribute="run",
        captured_at=boot.shown(place),
    )
