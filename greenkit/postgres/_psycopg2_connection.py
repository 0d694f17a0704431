"""psycopg2 connections with one user at a time, which get the error that ended a wait.

psycopg2 holds a native lock of the connection while its wait callback runs other greenlets. A second
greenlet that calls `commit()`, `close()` or the like would block on that lock with the whole process: no
greenlet, timer or signal handler would run any more. So psycopg2's classes are entered through subclasses
that know their user. They come *after* an application's own connection and cursor classes in the MRO, at
the last step into C: whatever those override is guarded too.
"""

from __future__ import annotations

import functools
from functools import cache
from typing import TYPE_CHECKING, Any

import gevent
import psycopg2
from gevent import get_hub
from greenlet import getcurrent
from psycopg2 import extensions

from greenkit.errors import ConcurrentUseError
from greenkit.postgres import _cancel, _closing, _copy
from greenkit.postgres._deadline import connect_timeout
from greenkit.postgres._errors import for_driver
from greenkit.postgres._large_object import LargeObject

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.wait import FdWatch

__all__ = ["GuardedConnection", "GuardedCursor", "GuardedNamedCursor", "guarded", "use"]

_LIBRARY: str = psycopg2._psycopg.__file__
_LONGEST_CANCEL = 3600.0  # seconds, where `connect_timeout` says "for ever"
_Busy = for_driver(ConcurrentUseError, psycopg2.ProgrammingError)


def use(conn: Any, what: str, call: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Run `call` as the only user of `conn`, or raise what interrupted it.

    The wait callback, having drained an interrupted query, returns as if nothing had happened, so
    that psycopg2 keeps the connection; it leaves the interrupt here, and here it is raised.

    Raises:
        ConcurrentUseError: Another greenlet is in a call of this connection.
    """
    me = getcurrent()
    if conn.gk_user is not None:
        if conn.gk_user is not me:
            raise _busy(conn, what)
        return call(*args, **options)  # inside a guarded call: that one answers for us
    conn.gk_user = me
    try:
        result = call(*args, **options)
    except BaseException:
        if conn.gk_interrupt is None:
            raise
        result = None
    finally:
        interrupt, conn.gk_interrupt = conn.gk_interrupt, None
        try:
            if conn.gk_cancel is not None:
                _closing.await_cancel(conn)
        finally:
            conn.gk_user = None  # a kill in that wait must not leave the connection a dead greenlet's
    if interrupt is not None:
        raise interrupt
    return result


def _busy(conn: Any, what: str) -> ConcurrentUseError:
    return _Busy(
        f"{what}() on {conn!r}, which {conn.gk_user!r} is using: a psycopg2 connection has one greenlet "
        "at a time, and the call would have stopped the whole process. Take one connection per greenlet "
        "(greenkit.postgres.ConnectionPool), or wait until the other is done."
    )


def _cancel_query(conn: Any) -> None:
    """Cancel what `conn` is doing, from any greenlet, and return when the server has been told.

    Raises:
        psycopg2.OperationalError: It could not be delivered.
    """
    delivery = conn.gk_cancel
    if delivery is None:
        deliver = _cancel.prepare(conn.pgconn_ptr, _LIBRARY)
        delivery = conn.gk_cancel = gevent.spawn(
            deliver, connect_timeout(extensions.parse_dsn(conn.dsn)) or _LONGEST_CANCEL
        )
        # Not in a `finally` of ours: a canceller that is killed leaves its request on the way.
        delivery.rawlink(functools.partial(_delivered, conn))
    delivery.join()
    if not delivery.value:
        msg = "the cancel request could not be delivered"
        raise psycopg2.OperationalError(msg)


def _delivered(conn: Any, _delivery: object) -> None:
    conn.gk_cancel = None


class GuardedConnection(extensions.connection):
    """Refuse a second greenlet, deliver what interrupted a query, and offer what psycopg2 refuses.

    `gk_user` is the greenlet in a call, `gk_interrupt` what ended its wait, `gk_cancel` the
    greenlet that is delivering somebody's `cancel()`, `gk_mark` changes when a transaction ends,
    `gk_watch` is what the callback waits with, `gk_query_timeout` the pool's seconds for each query.
    """

    gk_user: Any = None
    gk_mark: int = 0
    gk_interrupt: BaseException | None = None
    gk_cancel: Any = None
    gk_watch: FdWatch | None = None
    gk_query_timeout: float | None = None

    def cursor(self, name: Any = None, cursor_factory: Any = None, *args: Any, **options: Any) -> Any:
        """Return psycopg2's cursor, guarded."""
        kind = GuardedCursor if name is None else GuardedNamedCursor
        factory = cursor_factory or self.cursor_factory
        return super().cursor(name, guarded(kind, factory) if factory else kind, *args, **options)

    def cancel(self) -> None:
        """Cancel the query in flight, from any greenlet; others run meanwhile."""
        if self.closed or self.async_ or self.status == extensions.STATUS_PREPARED:
            super().cancel()  # refuses, or belongs to the user's own loop
            return
        _cancel_query(self)

    def poll(self) -> int:
        """Go on with what is under way, as psycopg2 does."""
        return int(use(self, "poll", super().poll))

    def lobject(
        self,
        oid: int = 0,
        mode: Any = None,
        new_oid: int = 0,
        new_file: Any = None,
        lobject_factory: Any = None,
    ) -> Any:
        """Return a large object that lets others run."""
        factory = lobject_factory or extensions.lobject
        if extensions.get_wait_callback() is None:
            return super().lobject(oid, mode, new_oid, new_file, factory)
        if self.async_:
            msg = "large objects cannot be used in asynchronous mode"
            raise psycopg2.ProgrammingError(msg)
        return guarded(LargeObject, factory)(self, oid, mode, new_oid, new_file)


def _alone(name: str) -> Callable[..., Any]:
    original = getattr(extensions.connection, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **options: Any) -> Any:
        self.gk_mark += 1  # whatever it is, no transaction outlives it
        return use(self, name, functools.partial(original, self), *args, **options)

    return method


def _alone_property(name: str) -> property:
    original: Any = getattr(extensions.connection, name)

    def assign(self: Any, value: Any) -> None:
        use(self, name, functools.partial(original.__set__, self), value)

    return property(original.__get__, assign, doc=original.__doc__)


def _ending(name: str) -> Callable[..., Any]:
    end = _alone(name)

    @functools.wraps(end)
    def method(self: Any) -> None:
        nothing_to_do = self.status == extensions.STATUS_READY
        end(self)
        # psycopg2 asks the server nothing then; a loop of such calls would starve all other greenlets.
        if nothing_to_do and extensions.get_wait_callback() is not None and getcurrent() is not get_hub():
            gevent.sleep(0)

    return method


for _name in ("commit", "rollback"):
    setattr(GuardedConnection, _name, _ending(_name))
for _name in (
    "close", "reset", "set_client_encoding", "set_isolation_level",
    "set_session", "tpc_begin", "tpc_commit", "tpc_prepare", "tpc_recover", "tpc_rollback",
):  # fmt: skip
    setattr(GuardedConnection, _name, _alone(_name))
for _name in ("autocommit", "deferrable", "isolation_level", "readonly"):
    setattr(GuardedConnection, _name, _alone_property(_name))


class GuardedCursor(extensions.cursor):
    """Execute as the connection's only user; COPY lets others run."""

    _copied: int | None = None

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        """Execute as psycopg2 does."""
        if self._copied is not None:
            self._copied = None
        try:
            use(self.connection, "execute", _execute, self, query, vars)
        except psycopg2.ProgrammingError as error:
            _copy.leave(self, error)  # psycopg2 leaves libpq in the middle of the COPY
            raise

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Execute as psycopg2 does."""
        use(self.connection, "executemany", super().executemany, query, vars_list)

    def callproc(self, procname: Any, *args: Any) -> Any:
        """Call as psycopg2 does."""
        return use(self.connection, "callproc", super().callproc, procname, *args)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Run a COPY of any form from or to `file`."""
        if not _copy.is_green(self):
            super().copy_expert(sql, file, size)
            return
        if not (hasattr(file, "read") or hasattr(file, "write")):
            msg = "file must be a readable file-like object for COPY FROM; a writable one for COPY TO."
            raise TypeError(msg)
        self._copied = use(self.connection, "copy_expert", _copy.run, self, sql, file, size)

    def copy_from(
        self, file: Any, table: str, sep: str = "\t", null: str = "\\N", size: int = 8192, columns: Any = None
    ) -> None:
        """Copy `file` into `table`."""
        if not _copy.is_green(self):
            super().copy_from(file, table, sep, null, size, columns)
            return
        if not hasattr(file, "read"):
            msg = "argument 1 must have a .read() method"
            raise TypeError(msg)
        sql = _copy.statement(self, "FROM stdin", table, sep=sep, null=null, columns=columns)
        GuardedCursor.copy_expert(self, sql, file, size)

    def copy_to(self, file: Any, table: str, sep: str = "\t", null: str = "\\N", columns: Any = None) -> None:
        """Copy `table` into `file`."""
        if not _copy.is_green(self):
            super().copy_to(file, table, sep, null, columns)
            return
        if not hasattr(file, "write"):
            msg = "argument 1 must have a .write() method"
            raise TypeError(msg)
        sql = _copy.statement(self, "TO stdout", table, sep=sep, null=null, columns=columns)
        GuardedCursor.copy_expert(self, sql, file)

    @property
    def rowcount(self) -> int:
        """Return psycopg2's count, or the rows of a COPY."""
        # psycopg2's own cannot be written from outside, and its COPY is not what ran.
        return _rowcount(self) if self._copied is None else self._copied


_rowcount: Any = extensions.cursor.rowcount.__get__
_execute = extensions.cursor.execute  # `super()` would cost every query its look-up


class GuardedNamedCursor(GuardedCursor):
    """Fetch as the connection's only user too: a named cursor asks the server for its rows."""


def _alone_fetch(name: str) -> Callable[..., Any]:
    original = getattr(extensions.cursor, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **options: Any) -> Any:
        return use(self.connection, name, functools.partial(original, self), *args, **options)

    return method


for _name in ("__next__", "close", "fetchall", "fetchmany", "fetchone", "scroll"):
    setattr(GuardedNamedCursor, _name, _alone_fetch(_name))


@cache
def guarded(guard: Any, factory: Any) -> Any:
    """Return `factory` with `guard` behind it; `factory` itself when it is no class of psycopg2's."""
    kind = guard.__mro__[-2]  # psycopg2's own
    if factory is kind:
        return guard
    if not isinstance(factory, type) or not issubclass(factory, kind) or issubclass(factory, guard):
        return factory
    return type(factory)(factory.__name__, (factory, guard), {"__module__": factory.__module__})
