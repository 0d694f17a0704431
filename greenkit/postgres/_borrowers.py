"""Name who holds the connections of a pool: the line of code, for how long, and whether a query runs.

Checking out records only the time. The line is read from the borrower's frame (of its greenlet or thread)
when statistics are asked for.
"""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from greenlet import GreenletExit, getcurrent

from greenkit.postgres import _driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from greenkit.postgres._checkout import PooledConnection

__all__ = ["Borrower", "IdleHolders", "borrowers", "in_words", "is_being_killed"]

_NAMED = 5  # borrowers an error names
_INTERVAL = 0.1  # seconds between two looks while callers wait
_PLACES = 100  # lines remembered; more are one line of generated code each
_FOREIGN = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(__file__).resolve().parent.parent), "<frozen"}
)


@dataclass(frozen=True, slots=True)
class Borrower:
    """Show one lent connection.

    Attributes:
        where: `file:line function` of the innermost frame of the user's code that the borrower is in;
            "" when it cannot be told.
        seconds: How long it has held the connection.
        querying: A query is running now.
    """

    where: str
    seconds: float
    querying: bool


def borrowers(lent: Iterable[PooledConnection]) -> tuple[Borrower, ...]:
    """Return who holds the connections, longest first."""
    now = monotonic()
    found = [
        Borrower(_where(_holder(pooled)), now - _since(pooled), pooled.status() == _driver.ACTIVE)
        for pooled in list(lent)
        if not pooled.raw.closed
    ]
    return tuple(sorted(found, key=lambda borrower: -borrower.seconds))


def in_words(found: tuple[Borrower, ...]) -> str:
    """Return a sentence that names the borrowers, "" when there are none."""
    if not found:
        return ""
    each = [
        f"{borrower.where or 'a place that cannot be told'} for {borrower.seconds:.1f} s"
        f" ({'in a query' if borrower.querying else 'with no query running'})"
        for borrower in found[:_NAMED]
    ]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"Held by {'; '.join(each)}{more}. "


def is_being_killed() -> bool:
    """Tell whether a kill is what unwinds the caller's stack."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, GreenletExit):
            return True
        error = error.__context__
    return False


class IdleHolders:
    """Add up, by line of code, how long connections were held with no query running while callers waited.

    A greenlet looks ten times a second, only while callers wait; so a pool that is large enough pays nothing.
    In an unpatched process only callers whose wait has timed out look.
    """

    def __init__(self, lent: Callable[[], Iterable[PooledConnection]], waiting: Callable[[], int]) -> None:
        self._checked_out, self._waiting = lent, waiting
        self._watching = False
        self._seen: dict[PooledConnection, tuple[float, str]] = {}
        self.seconds: dict[str, float] = {}

    def watch(self) -> None:
        """Look from now on, until nobody waits."""
        if not self._watching and monkey.is_module_patched("socket"):
            self._watching = True
            gevent.spawn(self._watch).rawlink(self._end)

    def look(self) -> None:
        """Count what has stood still at the same line since the last look."""
        now, seen = monotonic(), {}
        for pooled in list(self._checked_out()):
            if pooled.raw.closed or pooled.status() == _driver.ACTIVE:
                continue
            where = _where(_holder(pooled))
            since, before = self._seen.get(pooled, (now, where))
            # Another loan of the connection, or the next line: what was between is not known.
            if before == where and _since(pooled) <= since:
                self._add(where, now - since)
            seen[pooled] = (now, where)
        self._seen = seen

    def note(self, found: tuple[Borrower, ...]) -> None:
        """Count what a caller saw when its wait had timed out."""
        if not self._watching:
            for borrower in found:
                if not borrower.querying:
                    self.seconds[borrower.where] = max(
                        self.seconds.get(borrower.where, 0.0), borrower.seconds
                    )

    def _add(self, where: str, seconds: float) -> None:
        if where in self.seconds or len(self.seconds) < _PLACES:
            self.seconds[where] = self.seconds.get(where, 0.0) + seconds

    def _watch(self) -> None:
        while self._waiting():
            self.look()
            gevent.sleep(_INTERVAL, ref=False)

    def _end(self, _greenlet: object) -> None:
        self._watching = False
        self._seen = {}


def _holder(pooled: PooledConnection) -> Any:
    return pooled.owner if pooled.holder is None else pooled.holder


def _since(pooled: PooledConnection) -> float:
    return max(pooled.lent_at, pooled.idle_since)


def _where(holder: Any) -> str:
    frame = innermost = _frame_of(holder)
    while frame is not None and frame.f_code.co_filename.startswith(_FOREIGN):
        frame = frame.f_back
    frame = frame or innermost
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"


def _frame_of(holder: Any) -> FrameType | None:
    if holder is getcurrent():
        return sys._getframe()
    if isinstance(holder, int):  # a native thread, whose own greenlet may be waiting under others
        return sys._current_frames().get(holder)
    frame: FrameType | None = getattr(holder, "gr_frame", None)
    return frame
