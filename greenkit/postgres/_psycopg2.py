"""psycopg2's wait callback: let others run, keep deadlines, cancel what is interrupted.

`psycopg2.extensions.set_wait_callback` is one door for the whole process, the one psycogreen
uses as well; whoever called last is inside. While psycopg2 calls us it holds the connection's
native lock, so nothing here calls a method of the connection but `poll()` and plain readings.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gevent
import psycopg2
from gevent import get_hub
from psycopg2 import extensions

from greenkit.errors import WaitTimeout
from greenkit.postgres import _cancel, _farewell
from greenkit.postgres._deadline import current
from greenkit.postgres._errors import QueryTimeout, for_driver
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["CONNECT_TIMEOUT", "forget", "wait_callback"]

CONNECT_TIMEOUT = 130.0
"""Seconds for a connect whose DSN names no `connect_timeout`, as in psycopg 3."""

_SETTLED = frozenset(
    (extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED),
)
_OK, _READ, _WRITE = extensions.POLL_OK, extensions.POLL_READ, extensions.POLL_WRITE
_Timeout = for_driver(QueryTimeout, psycopg2.OperationalError)
_watches: MutableMapping[Any, FdWatch] = WeakKeyDictionary()


def wait_callback(conn: Any) -> None:
    """Wait, letting others run, until `conn` has done what psycopg2 asked of the server.

    When the wait is ended from outside (a kill, a `gevent.Timeout`, a deadline), the query is
    cancelled in the server, which gets a second to end; then psycopg2 closes the connection.

    Raises:
        QueryTimeout: The deadline of `greenkit.postgres.deadline()` or the DSN's
            `connect_timeout` passed.

    Switches: may.
    """
    if conn.status not in _SETTLED:
        _connect(conn)
        return
    watch = _watch(conn)
    until = current()
    try:
        _pump(conn, watch, until)
    except psycopg2.Error:
        raise  # the connection itself failed: nobody is left to cancel
    except WaitTimeout:
        _stop(conn, watch)
        msg = "the query passed its deadline; it was cancelled and its connection closed"
        raise _Timeout(msg) from None
    except BaseException:
        _stop(conn, watch)
        raise


def forget(conn: Any) -> None:
    """Let go of the watchers of `conn`, before its descriptor is closed.

    Switches: never.
    """
    watch = _watches.pop(conn, None)
    if watch is not None:
        watch.close()


def _watch(conn: Any) -> FdWatch:
    """Return the connection's own watch; a new one in another thread or a forked child."""
    watch = _watches.get(conn)
    if watch is None or watch.hub is not get_hub() or watch.fd != conn.fileno():
        watch = _watches[conn] = FdWatch(conn.fileno())
    return watch


def _pump(conn: Any, watch: FdWatch, until: Deadline) -> None:
    while (state := conn.poll()) != _OK:
        if state == _READ:
            watch.wait_read(until.timeout())
        elif state == _WRITE:
            watch.wait_write(until.timeout())
        else:
            msg = f"psycopg2 answered poll() with {state!r}, which is none of its states"
            raise psycopg2.OperationalError(msg)


def _stop(conn: Any, watch: FdWatch) -> None:
    """End the query in the server and see the backend off."""
    grace = Deadline.after(_farewell.GRACE)
    try:
        _farewell.shielded(lambda: _end_query(conn, watch, grace), grace)
    finally:
        forget(conn)


def _end_query(conn: Any, watch: FdWatch, grace: Deadline) -> None:
    cancel = _cancel.prepare(conn.pgconn_ptr, psycopg2._psycopg.__file__)
    request = gevent.spawn(cancel, grace.remaining())
    # Lost, or deaf: then closing is all that is left.
    with suppress(psycopg2.Error, WaitTimeout):
        _pump(conn, watch, grace)
    request.join(timeout=grace.timeout())
    _farewell.see_off(conn.fileno(), grace, say_goodbye=not conn.info.ssl_in_use)


def _connect(conn: Any) -> None:
    limit = _connect_timeout(conn.dsn)
    until = Deadline.earliest(current(), Deadline.after(limit))
    try:
        _pump_connect(conn, until)
    except WaitTimeout:
        _give_up(conn)
        msg = f"could not connect within the deadline (connect_timeout is {limit or 0:g} s, 0 for none)"
        raise _Timeout(msg) from None
    except BaseException:
        _give_up(conn)
        raise


def _pump_connect(conn: Any, until: Deadline) -> None:
    # A watch per wait: libpq takes another descriptor for every address it tries.
    while (state := conn.poll()) != _OK:
        watch = FdWatch(conn.fileno())
        try:
            (watch.wait_read if state == _READ else watch.wait_write)(until.timeout())
        finally:
            watch.close()


def _give_up(conn: Any) -> None:
    """Close the half-open socket now; psycopg2 would when the last traceback is forgotten."""
    try:
        line = os.dup(conn.fileno())
    except (OSError, psycopg2.Error):
        return  # no socket yet
    try:
        # Allowed here: psycopg2 holds no lock of the connection while it connects.
        conn.close()
        _farewell.hang_up(line, say_goodbye=False, cooperative=True)
    finally:
        os.close(line)


def _connect_timeout(dsn: str) -> float | None:
    """Return the DSN's (or libpq's environment's) connect timeout; None when it says "never"."""
    value = extensions.parse_dsn(dsn).get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")
    if not value:
        return CONNECT_TIMEOUT
    return float(value) if float(value) > 0 else None
