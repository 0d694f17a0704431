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
    from collections.abc import Callable, Iterator

__all__ = ["running_at", "watch_loops"]

_running: list[str] = []  # where the loop that runs was started
_get_ident = get_original("_thread", "get_ident")


def watch_loops(tell: Callable[[Finding], object]) -> None:
    """Have `tell` called with a finding when a loop begins to run in this thread's greenlets.

    Switches: never.
    """
    thread = _get_ident()
    boot.on_import("asyncio.events", lambda: _wrap(tell, thread))


def running_at() -> str:
    """Return `file:line` that started the loop that runs in a greenlet now, "" when none does.

    Switches: never.
    """
    return next(iter(_running), "")


def _wrap(tell: Callable[[Finding], object], thread: int) -> None:
    events: Any = sys.modules["asyncio.events"]
    begin, ask = events._set_running_loop, events._get_running_loop
    runs: list[Any] = []  # the greenlet that runs the loop

    def set_running_loop(loop: Any) -> None:
        begin(loop)
        if _get_ident() == thread and not boot.loop_isolation().installed:
            runs[:] = [getcurrent()] if loop is not None else []
            _running[:] = [_place()] if loop is not None else []
            if loop is not None:
                tell(_finding(_running[0], hurts="django.db" in sys.modules))

    def get_running_loop() -> Any:
        loop = ask()
        if loop is not None and runs and runs[0] is not getcurrent() and _get_ident() == thread:
            tell(_finding(_place(), hurts=True, other=running_at()))
        return loop

    events._set_running_loop, events._get_running_loop = set_running_loop, get_running_loop


def _place() -> str:
    """Return `file:line` of the user's code that runs here, or of whoever started this greenlet.

    In a thread of a library nobody of the user's stands on the stack: then the innermost frame that
    is not asyncio's own says at least which library runs the loop.
    """
    place = boot.user_frame()
    if place:
        return place
    started = list(_frames(getattr(getcurrent(), "spawning_stack", None)))
    here = list(_frames(sys._getframe(1)))
    users = [one for one in started if boot.is_users_file(one.partition(":")[0])]
    return next(iter([*users, *filter(_is_foreign, here), *filter(_is_foreign, started)]), "")


def _frames(frame: Any) -> Iterator[str]:
    while frame is not None:
        yield f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back


def _is_foreign(place: str) -> bool:
    parts = place.split("/")
    return "site-packages" in parts and not {"gevent", "greenkit", "greenlet"} & set(parts)


def _finding(place: str, *, hurts: bool, other: str = "") -> Finding:
    # Alone it works; who is hurt is whoever asks "does a loop run here?" in another greenlet.
    who = boot.shown(place) if place else "code without a frame of its own"
    return Finding(
        "GK123",
        Severity.WARNING if hurts else Severity.INFO,
        f"{who} runs an asyncio loop in a greenlet; while it runs a second one, and Django's"
        " ORM, refuse to work in every other greenlet",
        hint="import greenkit.auto in line 1 gives each greenlet a running loop of its own (unless"
        " GREENKIT_ASYNCIO=off); or run the loop in a native thread: greenkit.offload(asyncio.run, main()).",
        where=place,
        evidence=(f"the other loop runs since {boot.shown(other)}",) if other else (),
        rule="foreign-loop",
        effect="crashes",
        holder="asyncio",
        attribute="run",
        captured_at=boot.shown(place),
    )
