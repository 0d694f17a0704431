"""Background maintenance of a pool's idle connections.

In a patched process one greenlet per pool; it references the pool only while it works, and never keeps the
process alive. An unpatched process has no hub to run it: connections are examined when they are borrowed
and given back.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub, monkey

if TYPE_CHECKING:
    from greenkit.postgres._idle_connections import IdleConnections
    from greenkit.postgres._settings import Settings
    from greenkit.wait import WaitLine

__all__ = ["Upkeep", "examine", "fill", "tend"]

_log = logging.getLogger("greenkit.postgres")
_SHORTEST, _LONGEST = 0.02, 30.0  # seconds between two rounds


class Upkeep:
    """Run `tend()` from time to time for as long as the pool lives and is open; `runs` while it does."""

    def __init__(self) -> None:
        self._greenlet: Any = None
        self.runs = False

    def start(self, pool: Any, settings: Settings) -> None:
        """See that it runs; where there is no hub, do nothing."""
        if self.runs:
            return
        if not monkey.is_module_patched("socket") or get_hub().loop is None:
            return
        span = min(settings.max_idle, settings.max_lifetime) / 10
        interval = min(max(span, _SHORTEST), _LONGEST)
        self._greenlet = gevent.spawn(_run, weakref.ref(pool), interval)
        self._greenlet.rawlink(self._ended)
        self.runs = True

    def _ended(self, _greenlet: object) -> None:
        self.runs = False

    def stop(self) -> None:
        """End it."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)


def _run(pool_of: weakref.ref[Any], interval: float) -> None:
    while (pool := pool_of()) is not None and not pool.closed:
        try:
            pool._tend()
        except Exception:
            # A server that is away is the borrowers' news; this is only housekeeping.
            _log.debug("%r: upkeep failed", pool, exc_info=True)
        del pool
        gevent.sleep(interval, ref=False)


def tend(connections: IdleConnections, line: WaitLine) -> None:
    """Close what is too old or has idled too long, and open what is missing to `min_size`.

    Everything is done in a slot of the line that nobody wants: the bound holds, nobody waits.
    """
    while connections.has_expired() and line.acquire_nowait():
        try:
            connections.close_expired()
        finally:
            line.release()
    fill(connections, line)


def examine(connections: IdleConnections, line: WaitLine, *, ask: bool) -> None:
    """Go through the idle connections and close what is broken; `ask` the server, or only look."""
    for _ in range(len(connections.idle)):
        if not line.acquire_nowait():
            break  # they are wanted: then each is looked at before it is lent
        try:
            connections.examine(ask=ask)
        finally:
            line.release()


def fill(connections: IdleConnections, line: WaitLine) -> None:
    """Open, at the same time, as many connections as `min_size` lacks.

    Raises:
        Exception: The first error of those that could not be opened.
    """
    missing = range(connections.missing())
    if not monkey.is_module_patched("socket"):
        for _ in missing:
            _open_one(connections, line)
        return
    openers = [gevent.spawn(_open_one, connections, line) for _ in missing]
    try:
        gevent.joinall(openers, raise_error=True)
    finally:
        gevent.killall(openers)


def _open_one(connections: IdleConnections, line: WaitLine) -> None:
    # No free slot: a caller has it, and opens the connection.
    if connections.missing() and line.acquire_nowait():
        try:
            connections.add()
        finally:
            line.release()
