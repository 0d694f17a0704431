"""One connection of a pool: its age, since when it is idle, who checked it out and where."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from gevent import Greenlet, monkey
from greenlet import GreenletExit, getcurrent

from greenkit.postgres import _closing, _driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

__all__ = ["OwnerEnd", "PooledConnection"]

_TRAIL = range(8)
_thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")


class OwnerEnd(Protocol):
    """Be told that a borrower has ended with a connection."""

    def __call__(self, pooled: PooledConnection, /, *, in_hub: bool) -> None:
        """Take `pooled` back; in the hub nothing may wait."""


class PooledConnection:
    """A connection of the pool, idle or lent."""

    __slots__ = (
        "_look",
        "_trail",
        "conn",
        "ended_normally",
        "expires_at",
        "fd",
        "generation",
        "holder",
        "idle_since",
        "lent_at",
        "on_owner_end",
        "owner",
        "raw",
        "status",
    )

    def __init__(
        self, conn: Any, *, status: Callable[[], int], now: float, lifetime: float, generation: int
    ) -> None:
        self.conn = conn  # as connect() returned it, perhaps an agent's proxy: the borrower's
        self.raw = _driver.raw(conn)  # the driver's own: the pool's
        self.status = status
        self.expires_at = now + lifetime
        self.generation = generation
        self.idle_since = now
        self.owner: Any = None
        self.ended_normally = True
        self.lent_at = 0.0  # when it was last found idle; later it may have been handed over, at `idle_since`
        self.holder: Any = None  # where `owner` is no greenlet: the thread's own, or the thread's number
        self.on_owner_end: OwnerEnd | None = None
        self.fd: int = self.raw.fileno()
        self._look: Callable[[int], list[object]] = _closing.poller(self.fd).poll
        self._trail: list[tuple[CodeType, int]] = []

    def __call__(self, owner: object) -> None:
        """Be the link of the borrowing greenlet: it has ended. Runs in the hub, or in a dying thread."""
        if self.on_owner_end is not None:
            # Killed, its value is the GreenletExit; failed, it is not successful.
            self.ended_normally = not isinstance(owner, Greenlet) or (
                owner.successful() and not isinstance(owner.value, GreenletExit)
            )
            self.on_owner_end(self, in_hub=isinstance(owner, Greenlet))

    def looks_open(self) -> bool:
        """Tell whether nothing has come from the server since it went idle.

        What idles has nothing to read but a notice or the end. Half a microsecond, no round trip.
        """
        return not self.raw.closed and not self._look(0)

    def lend(self, on_owner_end: OwnerEnd, *, trail: bool) -> None:
        """Hear of the borrower's end, and note its stack if a `trail` is wanted."""
        if trail:
            self._trail = _trail()
        owner = getcurrent()
        if not isinstance(owner, Greenlet):
            self.holder = owner if monkey.is_module_patched("socket") else _thread_id()
            owner = _end_of_thread()
        if owner is not None:
            self.owner, self.on_owner_end = owner, on_owner_end
            owner.rawlink(self)

    def check_in(self) -> None:
        """Note that it was given back."""
        owner = self.owner
        self.owner = self.holder = self.on_owner_end = None
        if owner is not None:
            owner.unlink(self)

    def borrowed_at(self) -> str:
        """Return the borrower's stack, innermost first, as "file:line in function" lines."""
        return "\n".join(
            f"{code.co_filename}:{_line(code, at)} in {code.co_name}" for code, at in self._trail
        )


class _ThreadEnd:
    """Tell, as a greenlet's links do, when the native thread that made it has ended."""

    def __init__(self) -> None:
        self._links: list[Callable[[object], None]] = []

    def rawlink(self, link: Callable[[object], None]) -> None:
        self._links.append(link)

    def unlink(self, link: Callable[[object], None]) -> None:
        self._links.remove(link)

    def ended(self) -> None:
        for link in self._links:
            link(self)


class _Sentinel:
    """Die with the thread whose locals alone know it; lent members know `end` only."""

    def __init__(self) -> None:
        self.end = _ThreadEnd()

    def __del__(self) -> None:
        self.end.ended()


_of_thread = threading.local()


def _end_of_thread() -> Any:
    """Return what tells of this thread's end; None for the main thread, which lives on."""
    if monkey.is_module_patched("threading") or threading.current_thread() is threading.main_thread():
        return None
    if not hasattr(_of_thread, "sentinel"):
        _of_thread.sentinel = _Sentinel()
    return _of_thread.sentinel.end


def _trail() -> list[tuple[CodeType, int]]:
    # Code and offset only: a frame would keep the borrower's variables alive, and line numbers
    # cost a search each that almost nobody will ever read.
    # Past lend() and getconn(), beneath which there is nothing in `gevent.spawn(pool.getconn)`.
    frame: FrameType | None = sys._getframe(2).f_back
    trail: list[tuple[CodeType, int]] = []
    for _ in _TRAIL:
        if frame is None:
            break
        trail.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return trail


def _line(code: CodeType, at: int) -> int | None:
    return next((line for start, end, line in code.co_lines() if start <= at < end), code.co_firstlineno)
