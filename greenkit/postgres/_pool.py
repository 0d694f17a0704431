"""A bounded pool that serves callers in order and loses no connection.

A slot of the `WaitLine` is the right to one connection: it is taken before connecting and released only
when the connection is idle again or its backend has exited, so there are never more than `max_size`,
wherever a kill strikes. No method of a checked-out connection is called here.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import gevent

from greenkit import facts
from greenkit._clock import MONOTONIC, Clock
from greenkit.errors import PoolClosedError, WaitTimeout
from greenkit.postgres import _registry
from greenkit.postgres._borrowers import IdleHolders, borrowers, in_words, is_being_killed
from greenkit.postgres._deadline import current, deadline
from greenkit.postgres._driver import raw
from greenkit.postgres._errors import PoolTimeout, TooManyRequests, for_driver
from greenkit.postgres._idle_connections import IdleConnections
from greenkit.postgres._settings import Settings
from greenkit.postgres._statistics import ConnectionPoolStatistics
from greenkit.postgres._upkeep import Upkeep, examine, fill, tend
from greenkit.wait import Deadline, WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenkit.postgres._checkout import PooledConnection

__all__ = ["ConnectionPool"]

_Conn = TypeVar("_Conn")
_log = logging.getLogger("greenkit.postgres")
if sys.version_info >= (3, 11):
    _exception = sys.exception
else:

    def _exception() -> BaseException | None:
        return sys.exc_info()[1]


class ConnectionPool(Generic[_Conn]):
    """Keep up to `max_size` connections and lend them, first come, first served.

    Safe for greenlets and for native threads, with any of psycopg2 and psycopg 3. A connection
    belongs to the greenlet that borrowed it: when that ends without giving it back, the pool
    takes it back and says where it was borrowed.

    Nothing is opened when it is made. From its first use on it keeps `min_size` connections open
    and closes what is too old, in a greenlet of its own (in an unpatched process, when connections
    are given back). When a server that was there refuses, one caller at a time tries again and
    the others wait for it, each to its own deadline.

    Args:
        connect: Opens one connection; called without arguments. It may wait.
        min_size: Connections kept open however long they idle.
        max_size: Connections there may be at any instant, connecting ones included.
        timeout: Seconds `getconn()` waits for a connection, connecting included.
        max_waiting: How many may wait for one; who comes then is refused. 0: any number.
        max_lifetime: Seconds after which a connection is replaced (shortened by up to a tenth at
            random, so that they do not all go at once).
        max_idle: Seconds after which an idle connection beyond `min_size` is closed.
        reconnect_timeout: Seconds of an outage that callers wait out. After that, and always with
            0, they get the server's error at once.
        configure: Called with a new connection; what it leaves open is committed.
        check: Called with a connection before it is lent; raise to have it replaced. The pool
            already sees, without a round trip, when the server has hung up.
        reset: Called with a connection when it comes back, after the rollback; raise to have it
            thrown away. Without it, the connection of a killed borrower is closed: nobody gets the
            locks and settings that its session may still have.
        query_timeout: Seconds for each query where no `deadline()` is in force; None sets no end.
        pgbouncer: The server is PgBouncer in transaction mode: statements are not prepared, and
            `configure`, whose settings others would get, is refused.
        reuse_taken_back: Lend a connection again whose borrower ended without giving it back.
            Only where nobody else can have kept a reference; otherwise it is closed.
        name: Shown in statistics, errors and the repr.

    Raises:
        ValueError: Sizes that contradict each other, negative times, `configure` with `pgbouncer`.
    """

    def __init__(
        self,
        connect: Callable[[], _Conn],
        *,
        min_size: int = 0,
        max_size: int,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        reconnect_timeout: float = 300.0,
        configure: Callable[[_Conn], object] | None = None,
        check: Callable[[_Conn], object] | None = None,
        reset: Callable[[_Conn], object] | None = None,
        query_timeout: float | None = None,
        pgbouncer: bool = False,
        reuse_taken_back: bool = False,
        name: str = "postgres",
        clock: Clock = MONOTONIC,
    ) -> None:
        told = {key: value for key, value in locals().items() if key not in {"self", "connect"}}
        self._settings = Settings(**told)
        self._notes_trail = not reuse_taken_back
        self._idle_connections = IdleConnections(connect, self._settings)
        self._line = WaitLine(max_size, name=name)
        self._upkeep = Upkeep()
        self._checked_out: dict[int, PooledConnection] = {}
        self._stale: dict[int, Any] = {}
        self._taken_back = self._timeouts = 0
        self._leaked, self._leaked_at = 0, ""
        self._idle_holders = IdleHolders(
            self._checked_out_connections, lambda: self._line.statistics().waiting
        )
        self.name = name
        facts.register("connections", self)
        _registry.add(self)

    def __repr__(self) -> str:
        seen = self.statistics()
        state = "closed, " if self._idle_connections.closed else ""
        away = f", server away for {seen.away:.1f} s" if seen.away else ""
        if seen.full_at is not None:
            away = f", the server lets in no more than {seen.full_at}"
        return (
            f"<ConnectionPool {self.name!r} {state}{seen.in_use}/{seen.max_size} in use, "
            f"{seen.idle} idle, {seen.waiting} waiting{away}>"
        )

    @property
    def closed(self) -> bool:
        """Tell whether it lends no more."""
        return self._idle_connections.closed

    @property
    def leaks(self) -> tuple[int, str]:
        """Return how many borrowers' ends cost a connection, and where the last of them borrowed."""
        return self._leaked, self._leaked_at

    @property
    def idle_holders(self) -> dict[str, float]:
        """Return, by line, the seconds a connection was held with no query running while callers waited."""
        return dict(self._idle_holders.seconds)

    @contextmanager
    def connection(self, *, timeout: float | None = None) -> Iterator[_Conn]:
        """Lend a connection for a `with` block: commit at its end, roll back when it fails.

        Raises:
            PoolTimeout: None came free in time. PoolClosedError: The pool is closed.

        Switches: may.
        """
        conn: Any = self.getconn(timeout=timeout)
        try:
            yield conn
            if not conn.closed and not conn.autocommit:
                conn.commit()
        finally:
            self.putconn(conn)

    def getconn(self, *, timeout: float | None = None) -> _Conn:
        """Lend a connection; give it back with `putconn()`, whatever happens.

        Args:
            timeout: Seconds to wait, connecting included; None takes the pool's.

        Raises:
            PoolTimeout: None came free, or the server stayed away, for too long.
            TooManyRequests: `max_waiting` wait already. PoolClosedError: The pool is closed.

        Switches: may.
        """
        line, connections = self._line, self._idle_connections
        if not self._upkeep.runs:
            self._upkeep.start(self, self._settings)
        until = None if connections.check is None else self._until(timeout)
        if connections.closed or not line.acquire_nowait():
            until = self._queue_up(line, timeout)
        try:
            pooled = connections.find_nowait() if until is None else None
            if pooled is None:
                pooled = connections.find(until or self._until(timeout))
            pooled.lend(self._owner_ended, trail=self._notes_trail)
            self._checked_out[id(pooled.raw)] = pooled
        except WaitTimeout as late:
            line.release()
            raise self._timed_out(late) from late
        except BaseException:
            line.release()
            raise
        conn: _Conn = pooled.conn
        return conn

    def putconn(self, conn: _Conn) -> None:
        """Take a connection back: roll back what is open, keep it when it is sound.

        Raises:
            ValueError: It was not lent by this pool, or it was given back already.

        Switches: may.
        """
        line = self._line
        pooled = self._checked_out.pop(id(conn), None) or self._checked_out.pop(id(raw(conn)), None)
        if pooled is None:
            if self._stale.pop(id(raw(conn)), None) is not None:
                return  # lent before a fork: the parent's, and its slot with it
            msg = f"{conn!r} is not lent by {self!r}: given back twice, or to the wrong pool"
            raise ValueError(msg)
        try:
            pooled.check_in()
            if _exception() is None:
                self._idle_connections.take_back(pooled)
            else:
                suspect = is_being_killed() and not self.is_cleaned_by_reset()
                self._idle_connections.take_back(pooled, suspect=suspect)
        finally:
            line.release()
        if not self._upkeep.runs:
            tend(self._idle_connections, line)

    def wait(self, *, timeout: float = 30.0) -> None:
        """Open connections up to `min_size`, all at the same time, and return when they are there.

        Raises:
            PoolTimeout: It took longer. OperationalError: The driver's, when the server refuses.

        Switches: may.
        """
        self._must_be_open()
        try:
            with deadline(timeout):
                fill(self._idle_connections, self._line)
        except WaitTimeout as late:
            raise self._timed_out(late) from late
        self._upkeep.start(self, self._settings)

    def check(self) -> None:
        """Ask the server on each idle connection, replace those that are broken. Switches: may."""
        examine(self._idle_connections, self._line, ask=True)
        fill(self._idle_connections, self._line)

    def drain(self) -> None:
        """Replace every connection: idle ones now, lent ones when they come back.

        After a failover, or when `connect` would now make them otherwise.

        Switches: may.
        """
        self._idle_connections.outdate()
        tend(self._idle_connections, self._line)

    def resize(self, *, min_size: int | None = None, max_size: int) -> None:
        """Change the bounds. Growing lets waiters in now; when shrinking, what is lent is closed later.

        Raises:
            ValueError: The sizes contradict each other.

        Switches: may.
        """
        least = min(self._idle_connections.min_size, max_size) if min_size is None else min_size
        self._settings = replace(self._settings, min_size=least, max_size=max_size)
        connections = self._idle_connections
        connections.min_size, connections.max_size = least, max_size
        self._line.resize(max_size)
        while connections.idle and connections.size > max_size:
            connections.close_oldest()  # surplus: it has no slot

    def close(self, *, timeout: float = 5.0) -> None:
        """Lend no more, close what is idle, and wait up to `timeout` seconds for what is lent.

        Whoever waits gets `PoolClosedError`. Connections still out then are closed when they
        come back.

        Switches: may.
        """
        if self._idle_connections.closed:
            return
        line = self._line
        self._upkeep.stop()
        self._idle_connections.close()
        # More slots than waiters: each of them wakes, sees that it is over, and leaves.
        slots = self._settings.max_size + line.statistics().waiting
        line.resize(slots)
        until = Deadline.after(timeout)
        try:
            for _ in range(slots):
                line.acquire(timeout=until.timeout())
        except WaitTimeout:
            _log.warning("%r was closed with connections still lent", self)

    def statistics(self) -> ConnectionPoolStatistics:
        """Return a frozen account of this instant.

        Switches: never.
        """
        connections = self._idle_connections
        with connections.lock:
            return ConnectionPoolStatistics(
                max_size=self._settings.max_size,
                size=connections.size,
                idle=len(connections.idle),
                in_use=len(self._checked_out),
                waiting=self._line.statistics().waiting,
                peak=connections.peak,
                created=connections.created,
                thrown_away=connections.thrown_away,
                taken_back=self._taken_back,
                timeouts=self._timeouts,
                connect_errors=connections.reconnect.errors,
                away=connections.reconnect.seconds,
                full_at=connections.reconnect.full_at,
                borrowers=borrowers(self._checked_out.values()),
            )

    def is_lent_for_good(self, conn: _Conn) -> bool:
        """Tell whether the end of its borrower does not end the loan; to be overridden. Switches: never."""
        return False

    def is_cleaned_by_reset(self) -> bool:
        """Tell whether `reset` clears what a killed borrower left; to be overridden. Switches: never."""
        return self._settings.reset is not None

    def _checked_out_connections(self) -> list[PooledConnection]:
        return list(self._checked_out.values())  # asked anew each time: a fork makes another dict

    def _until(self, timeout: float | None) -> Deadline:
        own = Deadline.after(self._settings.timeout if timeout is None else timeout)
        return Deadline.earliest(current(), own)

    def _queue_up(self, line: WaitLine, timeout: float | None) -> Deadline:
        self._must_be_open()
        until = self._until(timeout)
        most = self._settings.max_waiting
        if most and line.statistics().waiting >= most:
            kind = for_driver(TooManyRequests, self._idle_connections.error_named("TooManyRequests"))
            msg = f"{most} wait for a connection of {self.name!r} already, which is its max_waiting"
            raise kind(msg)
        self._idle_holders.watch()
        try:
            line.acquire(timeout=until.timeout())
        except WaitTimeout:
            raise self._timed_out() from None
        try:
            self._must_be_open()  # the wait may have outlived the pool
        except BaseException:
            line.release()
            raise
        return until

    def _tend(self) -> None:
        examine(self._idle_connections, self._line, ask=False)
        tend(self._idle_connections, self._line)

    def _must_be_open(self) -> None:
        if self._idle_connections.closed:
            msg = f"{self!r} lends no more"
            raise PoolClosedError(msg)

    def _timed_out(self, late: Exception | None = None) -> PoolTimeout:
        with self._idle_connections.lock:
            self._timeouts += 1
        kind = for_driver(PoolTimeout, self._idle_connections.error_named("PoolTimeout"))
        reconnect, seen = self._idle_connections.reconnect, self.statistics()
        holders = in_words(seen.borrowers)
        self._idle_holders.note(seen.borrowers)
        if seen.full_at is not None:
            return kind(
                f"no connection of {self.name!r} came free in time: the server lets in no more than"
                f" {seen.full_at} of its {seen.max_size} ({str(reconnect.last).strip()}); {seen.in_use} in"
                f" use, {seen.waiting} still waiting. {holders}Lower max_size to what the server and the role"
                " allow, or raise their limits."
            )
        if late is None and reconnect.seconds:
            late = reconnect.last
        if late is not None:
            return kind(
                f"no connection of {self.name!r} could be opened in time: {str(late).strip()} "
                "Look at the server and at what connect() connects to."
            )
        return kind(
            f"no connection of {self.name!r} came free in time: {seen.in_use} of {seen.max_size} in use, "
            f"{self._idle_connections.checking} in their check, {seen.waiting} still waiting. {holders}Give "
            "connections back sooner, raise max_size, or send less."
        )

    def _owner_ended(self, pooled: PooledConnection, /, *, in_hub: bool) -> None:
        """Take back what a finished greenlet or thread still had."""
        line = self._line
        if self.is_lent_for_good(pooled.conn) or self._checked_out.pop(id(pooled.raw), None) is None:
            return
        with self._idle_connections.lock:
            self._taken_back += 1
        if not self._settings.reuse_taken_back:
            where = self._leaked_at = pooled.borrowed_at()
            self._leaked += 1
            facts.emit(facts.ConnectionLeaked(self.name, where))
            _log.warning("%s: a borrower ended without giving its connection back:\n%s", self.name, where)
        if in_hub:
            gevent.spawn(self._take_back, pooled, line)  # the hub may not wait
        else:
            self._take_back(pooled, line)

    def _take_back(self, pooled: PooledConnection, line: WaitLine) -> None:
        try:
            if self._settings.reuse_taken_back:
                suspect = not pooled.ended_normally and not self.is_cleaned_by_reset()
                self._idle_connections.take_back(pooled, suspect=suspect)
            else:
                # Somebody may still hold a reference: lent to two, it would freeze the process.
                self._idle_connections.discard(pooled)
        finally:
            line.release()

    def _after_fork(self) -> None:
        """Forget the parent's connections: a byte from here on their sockets would break them."""
        parents = [*self._idle_connections.forget(), *self._checked_out.values()]
        # Kept, so that a borrower in the child can give them back, and the collector closes none.
        self._stale = {id(pooled.raw): pooled.conn for pooled in parents}
        nowhere = os.open(os.devnull, os.O_RDWR)
        for pooled in parents:
            pooled.on_owner_end = None
            # The number of a closed connection may be another file's by now.
            if not pooled.raw.closed:
                os.dup2(nowhere, pooled.fd)
        os.close(nowhere)
        self._checked_out = {}
        self._line = WaitLine(self._settings.max_size, name=self.name)
