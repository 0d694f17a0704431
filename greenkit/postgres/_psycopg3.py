"""What psycopg 3 needs in a patched process.

It waits in C unless `select` was patched before its import; it knows no deadline for a query; and
it cancels an interrupted query for `KeyboardInterrupt` only, so a killed greenlet would leave its
connection in the middle of one. What is replaced here is public, but for the wait functions.
"""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
import psycopg
import psycopg.waiting
from psycopg.pq import TransactionStatus

from greenkit.postgres import _farewell
from greenkit.postgres._deadline import current, lifted
from greenkit.postgres._errors import QueryTimeout, for_driver
from greenkit.wait import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["install", "uninstall"]

_Timeout = for_driver(QueryTimeout, psycopg.OperationalError)
_before: dict[tuple[Any, str], Any] = {}


def install() -> None:
    """Have psycopg 3 wait where gevent sees it, keep deadlines, and cancel what is interrupted.

    Switches: never.
    """
    if _before:
        return
    waiting = psycopg.waiting
    if waiting.wait is getattr(waiting, "wait_c", None):
        _set(waiting, "wait", waiting.wait_poll)
    _set(psycopg.Connection, "wait", _careful(psycopg.Connection.wait))
    _set(waiting, "wait_conn", _careful_connect(waiting.wait_conn))


def uninstall() -> None:
    """Put back what `install()` found.

    Switches: never.
    """
    while _before:
        (module, name), value = _before.popitem()
        setattr(module, name, value)


def _set(module: Any, name: str, value: Any) -> None:
    _before[module, name] = getattr(module, name)
    setattr(module, name, value)


def _careful(wait: Callable[..., Any]) -> Callable[..., Any]:
    """Return `Connection.wait` with our deadline; interrupted, it leaves an idle connection."""

    @functools.wraps(wait)
    def wait_until(self: Any, gen: Any, *args: Any, **options: Any) -> Any:
        try:
            return _by_the_deadline(lambda: wait(self, gen, *args, **options))
        except (gevent.GreenletExit, gevent.Timeout, _Timeout):
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                grace = Deadline.after(2 * _farewell.GRACE)
                _farewell.shielded(lambda: _end_query(self, gen), grace)
            raise

    return wait_until


def _careful_connect(wait_conn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `wait_conn` with our deadline; interrupted, it leaves no half-open connection."""

    @functools.wraps(wait_conn)
    def wait_until(gen: Any, *args: Any, **options: Any) -> Any:
        seen: list[int] = []
        try:
            return _by_the_deadline(lambda: wait_conn(_noting(gen, seen), *args, **options))
        except (gevent.GreenletExit, gevent.Timeout, _Timeout):
            # psycopg closes the socket when the last traceback is forgotten: too late for a bound.
            # Only here: after psycopg's own errors the number may be another file's already.
            if seen:
                _farewell.hang_up(seen[-1], say_goodbye=False, cooperative=True)
            raise

    return wait_until


def _by_the_deadline(wait: Callable[[], Any]) -> Any:
    # Not `with gevent.Timeout(...)`: psycopg's own time-outs are its callers' business.
    timer = gevent.Timeout.start_new(current().timeout())
    try:
        # Lifted: what cleans up after the deadline waits as well, within bounds of its own.
        with lifted():
            return wait()
    except gevent.Timeout as ended:
        if ended is not timer:
            raise
        raise _Timeout("the query or connect passed its deadline; it was cancelled") from None
    finally:
        timer.close()


def _end_query(conn: Any, gen: Any) -> None:
    """Cancel in the server and take its answer; close the connection when there is none."""
    with lifted(), gevent.Timeout(_farewell.GRACE, False), suppress(psycopg.Error):
        conn.cancel_safe(timeout=_farewell.GRACE)
        psycopg.waiting.wait(gen, conn.pgconn.socket, interval=_farewell.GRACE)
    if conn.pgconn.transaction_status != TransactionStatus.ACTIVE:
        return
    line = os.dup(conn.pgconn.socket)
    try:
        conn.pgconn.finish()
        _farewell.see_off(line, Deadline.after(_farewell.GRACE), say_goodbye=False)
    finally:
        os.close(line)


def _noting(gen: Generator[Any, Any, Any], seen: list[int]) -> Generator[Any, Any, Any]:
    """Pass a connecting generator through, noting the descriptors it waits on."""
    try:
        item = next(gen)
        while True:
            seen.append(item[0])
            item = gen.send((yield item))
    except StopIteration as done:
        return done.value
