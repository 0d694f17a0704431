"""Notice an asyncio loop that begins to run in a greenlet.

The running loop is a property of the native thread. While one greenlet runs a loop, a second one is
refused, and Django's ORM refuses to work in every other greenlet. Only an observed process is watched:
`asyncio.events._set_running_loop`, through which every loop written in Python begins (3.10 to 3.13,
`asyncio/base_events.py`, `run_forever`), is wrapped.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

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
    real = events._set_running_loop

    def set_running_loop(loop: Any) -> None:
        real(loop)
        if loop is not None and _get_ident() == thread:
            tell(_finding(boot.user_frame()))

    events._set_running_loop = set_running_loop


def _finding(place: str) -> Finding:
    # Alone it works; who is hurt is whoever asks "does a loop run here?" in another greenlet.
    asks = "django.db" in sys.modules
    return Finding(
        "GK123",
        Severity.WARNING if asks else Severity.INFO,
        f"{boot.shown(place)} runs an asyncio loop in a greenlet"
        + ("; meanwhile Django's ORM refuses to work in every other greenlet" if asks else ""),
        hint="Run it in a native thread: gevent.get_hub().threadpool.apply(asyncio.run, (main(),)).",
        where=place,
        rule="foreign-loop",
        effect="crashes",
        holder="asyncio",
        attribute="run",
        captured_at=boot.shown(place),
    )
