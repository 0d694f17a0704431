"""Lend a bounded number of connections, in order, and lose none.

A slot of the `WaitLine` is the right to have one connection: it is taken before connecting and
given back only when the connection is idle again or its backend is gone, so there are never more
than `max_size`, whatever is killed when. Nothing here calls a method of a lent connection.
"""

from __future__ import annotations

import logging
import os
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import gevent

from greenkit import facts
from greenkit._clock import MONOTONIC, Clock
from greenkit.errors import PoolClosedError, WaitTimeout
from greenkit.postgres._errors import PoolTimeout, for_driver
from greenkit.postgres._shelf import Shelf
from greenkit.postgres._statistics import ConnectionPoolStatistics
from greenkit.wait import Deadline, WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenkit.postgres._loan import Member

__all__ = ["ConnectionPool"]

_Conn = TypeVar("_Conn")
_log = logging.getLogger("greenkit.postgres")


class ConnectionPool(Generic[_Conn]):
    """Keep up to `max_size` connections and lend them, first come, first served.

    Safe for greenlets and for native threads, with any of psycopg2 and psycopg 3. A connection
    belongs to the greenlet that borrowed it: when that ends without giving it back, the pool
    takes it back and says where it was borrowed.

    Args:
        connect: Opens one connection; called without arguments. It may wait.
        min_size: Idle connections up to this many are kept however long they idle.
        max_size: Connections there may be at any instant, connecting ones included.
        timeout: Seconds `getconn()` waits for a connection, connecting included.
        max_lifetime: Seconds after which a connection is replaced (shortened by up to a tenth at
            random, so that they do not all go at once).
        max_idle: Seconds after which an idle connection is closed.
        check: Called with a connection before it is lent; raise to have it replaced. The pool
            already sees, without a round trip, when the server has hung up.
        reset: Called with a connection when it comes back, after the rollback; raise to have it
            thrown away.
        reuse_taken_back: Lend a connection again whose borrower ended without giving it back.
            Only where nobody else can have kept a reference; otherwise it is closed.
        name: Shown in statistics, errors and the repr.
    """

    def __init__(
        self,
        connect: Callable[[], _Conn],
        *,
        min_size: int = 0,
        max_size: int,
        timeout: float = 30.0,
        max_lifetime: float = 3600.0,
        max_idle: float = 600.0,
        check: Callable[[_Conn], object] | None = None,
        reset: Callable[[_Conn], object] | None = None,
        reuse_taken_back: bool = False,
        name: str = "postgres",
        clock: Clock = MONOTONIC,
    ) -> None:
        if max_size < 1 or not 0 <= min_size <= max_size:
            msg = f"a pool needs 0 <= min_size <= max_size and 1 <= max_size, not {min_size} and {max_size}"
            raise ValueError(msg)
        self.name = name
        self._max_size, self._timeout = max_size, timeout
        self._reuse_taken_back = reuse_taken_back
        self._shelf = Shelf(
            connect,
            min_size=min_size,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            check=check,
            reset=reset,
            clock=clock,
            name=name,
        )
        self._line = WaitLine(max_size, name=name)
        self._lent: dict[int, Member] = {}
        self._stale: dict[int, Any] = {}
        self._taken_back = self._timeouts = 0
        facts.register("connections", self)
        _pools.add(self)

    def __repr__(self) -> str:
        seen = self.statistics()
        state = "closed, " if self._shelf.closed else ""
        return (
            f"<ConnectionPool {self.name!r} {state}{seen.in_use}/{seen.max_size} in use, "
            f"{seen.idle} idle, {seen.waiting} waiting>"
        )

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
            PoolTimeout: None came free in time. PoolClosedError: The pool is closed.

        Switches: may.
        """
        until = Deadline.after(self._timeout if timeout is None else timeout)
        line = self._enter(until)
        try:
            member = self._shelf.find(until)
            member.lend(self._owner_ended)
            self._lent[id(member.conn)] = member
        except BaseException:
            line.release()
            raise
        conn: _Conn = member.conn
        return conn

    def putconn(self, conn: _Conn) -> None:
        """Take a connection back: roll back what is open, keep it when it is sound.

        Raises:
            ValueError: It was not lent by this pool, or it was given back already.

        Switches: may.
        """
        line = self._line
        member = self._lent.pop(id(conn), None)
        if member is None:
            if self._stale.pop(id(conn), None) is conn:
                return  # lent before a fork: the parent's, and its slot with it
            msg = f"{conn!r} is not lent by {self!r}: given back twice, or to the wrong pool"
            raise ValueError(msg)
        try:
            member.settle()
            self._shelf.receive(member)
        finally:
            line.release()
        self._shelf.evict(line)

    def close(self, *, timeout: float = 5.0) -> None:
        """Lend no more, close what is idle, and wait up to `timeout` seconds for what is lent.

        Whoever waits gets `PoolClosedError`. Connections still out then are closed when they
        come back.

        Switches: may.
        """
        if self._shelf.closed:
            return
        line = self._line
        self._shelf.close()
        # More slots than waiters: each of them wakes, sees that it is over, and leaves.
        slots = self._max_size + line.statistics().waiting
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
        shelf = self._shelf
        with shelf.lock:
            return ConnectionPoolStatistics(
                max_size=self._max_size,
                size=shelf.size,
                idle=len(shelf.idle),
                in_use=len(self._lent),
                waiting=self._line.statistics().waiting,
                peak=shelf.peak,
                created=shelf.created,
                thrown_away=shelf.thrown_away,
                taken_back=self._taken_back,
                timeouts=self._timeouts,
            )

    def _enter(self, until: Deadline) -> WaitLine:
        line = self._line
        self._must_be_open()
        try:
            line.acquire(timeout=until.timeout())
        except WaitTimeout:
            raise self._timed_out() from None
        try:
            self._must_be_open()  # the wait may have outlived the pool
        except BaseException:
            line.release()
            raise
        return line

    def _must_be_open(self) -> None:
        if self._shelf.closed:
            msg = f"{self!r} lends no more"
            raise PoolClosedError(msg)

    def _timed_out(self) -> PoolTimeout:
        with self._shelf.lock:
            self._timeouts += 1
        kind = for_driver(PoolTimeout, self._shelf.operational_error)
        seen = self.statistics()
        return kind(
            f"no connection of {self.name!r} came free in time: {seen.in_use} of {seen.max_size} in use, "
            f"{seen.waiting} still waiting. Give connections back sooner, raise max_size, or send less."
        )

    def _owner_ended(self, member: Member, /, *, in_hub: bool) -> None:
        """Take back what a finished greenlet or thread still had."""
        line = self._line
        if self._lent.pop(id(member.conn), None) is None:
            return
        with self._shelf.lock:
            self._taken_back += 1
        if not self._reuse_taken_back:
            where = member.borrowed_at()
            facts.emit(facts.ConnectionLeaked(self.name, where))
            _log.warning("%s: a borrower ended without giving its connection back:\n%s", self.name, where)
        if in_hub:
            gevent.spawn(self._bring_home, member, line)  # the hub may not wait
        else:
            self._bring_home(member, line)

    def _bring_home(self, member: Member, line: WaitLine) -> None:
        try:
            if self._reuse_taken_back:
                self._shelf.receive(member)
            else:
                # Somebody may still hold a reference: lent to two, it would freeze the process.
                self._shelf.throw_away(member)
        finally:
            line.release()

    def _after_fork(self) -> None:
        """Forget the parent's connections: a byte from here on their sockets would break them."""
        parents = [*self._shelf.forget(), *self._lent.values()]
        # Kept, so that a borrower in the child can give them back, and nobody closes them.
        self._stale = {id(member.conn): member.conn for member in parents}
        nowhere = os.open(os.devnull, os.O_RDWR)
        for member in parents:
            member.on_owner_end = None
            os.dup2(nowhere, member.fd)
        os.close(nowhere)
        self._lent = {}
        self._line = WaitLine(self._max_size, name=self.name)


def _reset_pools_after_fork() -> None:
    for pool in list(_pools):
        pool._after_fork()


_pools: weakref.WeakSet[ConnectionPool[Any]] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_pools_after_fork)
