"""psycopg2's wait callback: run other greenlets, keep deadlines, cancel interrupted queries.

`psycopg2.extensions.set_wait_callback` is one setting for the whole process, which psycogreen uses too; the
last call wins. While psycopg2 calls us it holds the connection's native lock, so only `poll()` and plain
attributes of the connection are used here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gevent
import psycopg2
from gevent import get_hub
from greenlet import getcurrent
from psycopg2 import extensions

from greenkit.errors import WaitTimeout
from greenkit.postgres import _cancel, _closing
from greenkit.postgres._connect import connect
from greenkit.postgres._deadline import current, for_query, passed
from greenkit.postgres._errors import QueryTimeout, for_driver
from greenkit.postgres._psycopg2_connection import GuardedConnection
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["forget", "wait_callback"]

_CANCEL_INTERVAL = 0.2  # seconds until a cancel that came before its query is repeated
_SETTLED = frozenset(
    (extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED),
)
_OK, _READ, _WRITE = extensions.POLL_OK, extensions.POLL_READ, extensions.POLL_WRITE
_LIBRARY: str = psycopg2._psycopg.__file__
_Timeout = for_driver(QueryTimeout, psycopg2.OperationalError)
# Of connections made before `install()`; guarded ones have theirs with them.
_watches: MutableMapping[Any, FdWatch] = WeakKeyDictionary()
# Not the connection's own: `poll()` of a guarded one refuses everybody but its user.
_poll = extensions.connection.poll


def wait_callback(conn: Any) -> None:
    """Wait, letting others run, until `conn` has done what psycopg2 asked of the server.

    When the wait is ended from outside (a kill, a `gevent.Timeout`, a deadline), the query is
    cancelled in the server and its answer awaited for up to a second. Then the caller gets what
    ended the wait, and the connection can be used again; without an answer it is closed.

    Raises:
        QueryTimeout: The deadline of `greenkit.postgres.deadline()` or the DSN's
            `connect_timeout` passed.
    """
    if getattr(conn, "status", None) not in _SETTLED:
        connect(conn)
        return
    watch = _watch(conn)
    if isinstance(conn, GuardedConnection) and conn.gk_interrupt is not None:
        _stop(conn, watch, conn.gk_interrupt)  # psycopg2 goes on to its next statement: not this time
        return
    try:
        until = current() if (seconds := _query_timeout(conn)) is None else for_query(seconds)
        _pump(conn, watch, until)
    except psycopg2.Error:
        raise  # the connection itself failed: there is nothing to cancel
    except WaitTimeout:
        _stop(conn, watch, _Timeout(passed(_query_timeout(conn))))
    except BaseException as interrupt:
        _stop(conn, watch, interrupt)


def forget(conn: Any) -> None:
    """Let go of the watchers of `conn`, before its descriptor is closed."""
    watch: FdWatch | None = _watches.pop(conn, None)
    if isinstance(conn, GuardedConnection):
        watch, conn.gk_watch = conn.gk_watch, None
    if watch is not None:
        watch.close()


def _watch(conn: Any) -> FdWatch:
    """Return the connection's own watch; a new one in another thread or a forked child."""
    guarded = isinstance(conn, GuardedConnection)
    watch: FdWatch | None = conn.gk_watch if guarded else _watches.get(conn)
    if watch is None or watch.hub is not get_hub() or watch.fd != conn.fileno():
        watch = FdWatch(conn.fileno())
        if guarded:
            conn.gk_watch = watch
        else:
            _watches[conn] = watch
    return watch


def _query_timeout(conn: Any) -> float | None:
    return conn.gk_query_timeout if isinstance(conn, GuardedConnection) else None


def _pump(conn: Any, watch: FdWatch, until: Deadline) -> None:
    while (state := _poll(conn)) != _OK:
        if state == _READ:
            watch.wait_read(until.timeout())
        elif state == _WRITE:
            watch.wait_write(until.timeout())
        else:
            msg = f"psycopg2 answered poll() with {state!r}, which is none of its states"
            raise psycopg2.OperationalError(msg)


def _stop(conn: Any, watch: FdWatch, interrupt: BaseException) -> None:
    """End the query in the server; leave `interrupt` for the caller, or raise it to have `conn` closed."""
    # Only a guarded call will ask for what is left; psycopg2's own would lose it.
    keep = isinstance(conn, GuardedConnection) and conn.gk_user is getcurrent()
    grace = Deadline.after(_closing.GRACE)
    drained: list[bool] = []
    try:
        _closing.run_uninterrupted(lambda: drained.append(_end_query(conn, watch, grace)), grace)
    except BaseException as later:  # the first interrupt counts, unless a kill follows
        if isinstance(later, gevent.GreenletExit):
            interrupt = later
    if keep and any(drained):
        conn.gk_interrupt = interrupt
        return
    if not any(drained) or not keep:
        _closing.run_uninterrupted(lambda: _leave(conn, grace), grace)
    forget(conn)
    raise interrupt


def _end_query(conn: Any, watch: FdWatch, grace: Deadline) -> bool:
    """Cancel until the server has answered and no cancel is in flight; tell whether it did."""
    answered = False
    while not (answered or grace.expired):
        deliver = _cancel.prepare(conn.pgconn_ptr, _LIBRARY)
        request = gevent.spawn(deliver, grace.remaining())
        until = Deadline.earliest(grace, Deadline.after(_CANCEL_INTERVAL))
        try:
            _pump(conn, watch, until)
            answered = True
        except WaitTimeout:
            pass  # the cancel may have come before the query: send another
        except psycopg2.Error:
            return False  # the line is dead
        finally:
            # A cancel still under way would hit the next query of the connection.
            request.join(timeout=grace.timeout())
        if not request.value:
            return False  # given up half-way, the server may carry it out yet
    return answered


def _leave(conn: Any, grace: Deadline) -> None:
    with suppress(psycopg2.Error, OSError):
        _closing.wait_for_end(conn.fileno(), grace, send_terminate=not conn.info.ssl_in_use)
