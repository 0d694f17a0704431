"""Lend a bounded number of connections, in order, and lose none.

A slot of the `WaitLine` is the right to have one connection: it is taken before connecting and
given back only when the connection is idle again or its backend is gone, so there are never more
than `max_size`, whatever is killed when. Nothing here calls a method of a lent connection.
"""

from __future__ import annotations

import logging
import os
import random
import weakref
from _thread import RLock  # native also after patching (gevent 26 leaves this name alone)
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import gevent

from greenkit import facts
from greenkit._clock import MONOTONIC, Clock
from greenkit.errors import PoolClosedError, WaitTimeout
from greenkit.postgres import _driver
from greenkit.postgres._deadline import deadline as deadline_of_queries
from greenkit.postgres._errors import PoolTimeout, for_driver
from greenkit.postgres._loan import Member
from greenkit.postgres._statistics import ConnectionPoolStatistics
from greenkit.wait import Deadline, WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    def __init__(  # noqa: PLR0913 - psycopg_pool's verbs and options
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
        self._connect = connect
        self._min_size, self._max_size = min_size, max_size
        self._timeout, self._max_lifetime, self._max_idle = timeout, max_lifetime, max_idle
        self._check, self._reset = check, reset
        self._reuse_taken_back = reuse_taken_back
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - jitter
        self._driver: _driver.Driver | None = None
        self._lock = RLock()  # guards the counters; never held across a switch
        self._closed = False
        self._stale: dict[int, Any] = {}
        self._peak = self._created = self._thrown_away = self._taken_back = self._timeouts = 0
        self._start_empty()
        facts.register("connections", self)
        _pools.add(self)

    def __repr__(self) -> str:
        seen = self.statistics()
        state = "closed, " if self._closed else ""
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
        line = self._line
        self._enter(line, until)
        try:
            member = self._find(until)
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
            self._receive(member)
        finally:
            line.release()

    def close(self, *, timeout: float = 5.0) -> None:
        """Lend no more, close what is idle, and wait up to `timeout` seconds for what is lent.

        Whoever waits gets `PoolClosedError`. Connections still out then are closed when they
        come back.

        Switches: may.
        """
        if self._closed:
            return
        self._closed = True
        line = self._line
        # More slots than waiters: each of them wakes, sees that it is over, and leaves.
        slots = self._max_size + line.statistics().waiting
        line.resize(slots)
        until = Deadline.after(timeout)
        self._close_idle()
        try:
            for _ in range(slots):
                line.acquire(timeout=until.timeout())
        except WaitTimeout:
            _log.warning("%r was closed with connections still lent", self)
        self._close_idle()

    def statistics(self) -> ConnectionPoolStatistics:
        """Return a frozen account of this instant.

        Switches: never.
        """
        with self._lock:
            return ConnectionPoolStatistics(
                max_size=self._max_size,
                size=self._size,
                idle=len(self._idle),
                in_use=len(self._lent),
                waiting=self._line.statistics().waiting,
                peak=self._peak,
                created=self._created,
                thrown_away=self._thrown_away,
                taken_back=self._taken_back,
                timeouts=self._timeouts,
            )

    # -- slots ---------------------------------------------------------------------------------

    def _start_empty(self) -> None:
        self._line = WaitLine(self._max_size, name=self.name)
        self._idle: deque[Member] = deque()
        self._lent: dict[int, Member] = {}
        self._size = 0

    def _enter(self, line: WaitLine, until: Deadline) -> None:
        try:
            line.acquire(timeout=until.timeout())
        except WaitTimeout:
            raise self._timed_out(until) from None
        if self._closed:
            line.release()
            msg = f"{self!r} is closed and lends no more"
            raise PoolClosedError(msg)

    def _timed_out(self, until: Deadline) -> PoolTimeout:
        with self._lock:
            self._timeouts += 1
        driver = self._driver or _driver.guess()
        kind = for_driver(PoolTimeout, driver.operational_error if driver else None)
        seen = self.statistics()
        return kind(
            f"no connection of {self.name!r} came free in time: {seen.in_use} of {seen.max_size} in use, "
            f"{seen.waiting} still waiting. Give connections back sooner, raise max_size, or send less."
        )

    # -- connections; every caller holds a slot ------------------------------------------------

    def _find(self, until: Deadline) -> Member:
        """Return an idle connection that works, the last one used first, or a new one."""
        while self._idle:
            try:
                member = self._idle.pop()
            except IndexError:  # another native thread was faster
                break
            if self._passes(member):
                return member
        return self._open(until)

    def _passes(self, member: Member) -> bool:
        """Tell whether `member` may be lent; it is closed otherwise."""
        sound = False
        try:
            if self._clock.now() < member.expires_at and member.looks_alive():
                if self._check is not None:
                    self._check(member.conn)
                sound = True
        except Exception:  # noqa: BLE001 - whatever the check raises is its way of saying no
            _log.debug("%s: a connection failed its check", self.name, exc_info=True)
        finally:
            if not sound:
                self._throw_away(member)
        return sound

    def _open(self, until: Deadline) -> Member:
        with self._lock:
            self._size += 1  # reserve first: connecting switches, and it counts
            self._peak = max(self._peak, self._size)
        conn: Any = None
        try:
            with deadline_of_queries(until.timeout()):
                conn = self._connect()
            if self._driver is None:
                self._driver = _driver.driver_of(conn)
            lifetime = self._max_lifetime * self._random.uniform(0.9, 1.0)
            member = Member(conn, expires_at=self._clock.now() + lifetime)
        except BaseException:
            with self._lock:
                self._size -= 1
            raise
        with self._lock:
            self._created += 1
        return member

    def _receive(self, member: Member) -> None:
        """Make `member` idle, or close it when it is not fit to be lent again."""
        sound = False
        try:
            sound = not self._closed and self._wipe(member)
        except Exception:  # noqa: BLE001 - a failed rollback or reset: it is not sound
            _log.debug("%s: a connection could not be reset", self.name, exc_info=True)
        finally:
            if not sound:
                self._throw_away(member)
        if sound:
            member.idle_since = self._clock.now()
            self._idle.append(member)
            self._evict()

    def _wipe(self, member: Member) -> bool:
        conn = member.conn
        if conn.closed:
            return False
        status = _driver.status(conn)
        if status == _driver.ACTIVE:
            return False
        if status != _driver.IDLE:
            conn.rollback()
        if self._reset is not None:
            self._reset(conn)
        return not conn.closed and _driver.status(conn) == _driver.IDLE

    def _throw_away(self, member: Member) -> None:
        driver = self._driver
        conn = member.conn
        try:
            if driver is not None:
                busy = not conn.closed and _driver.status(conn) == _driver.ACTIVE
                (driver.abandon if busy else driver.close)(conn)
        except Exception:  # noqa: BLE001 - it is going either way
            _log.debug("%s: closing a connection failed", self.name, exc_info=True)
        finally:
            with self._lock:
                self._size -= 1
                self._thrown_away += 1

    # -- upkeep --------------------------------------------------------------------------------

    def _evict(self) -> None:
        """Close the longest idle connection when it has idled too long."""
        try:
            oldest = self._idle[0]
        except IndexError:
            return
        if self._clock.now() - oldest.idle_since < self._max_idle or len(self._idle) <= self._min_size:
            return
        # A slot of its own, or there is no room for a connection that is neither idle nor lent.
        if self._line.acquire_nowait():
            self._close_oldest(self._line)

    def _close_oldest(self, line: WaitLine) -> None:
        try:
            self._throw_away(self._idle.popleft())
        except IndexError:
            pass  # lent in the meantime
        finally:
            line.release()

    def _close_idle(self) -> None:
        while self._idle:
            try:
                member = self._idle.pop()
            except IndexError:
                return
            self._throw_away(member)

    def _owner_ended(self, member: Member) -> None:
        """Take back what a finished greenlet still had. Runs in the hub, so it must not wait."""
        if self._lent.pop(id(member.conn), None) is None:
            return
        with self._lock:
            self._taken_back += 1
        if not self._reuse_taken_back:
            where = member.borrowed_at()
            facts.emit(facts.ConnectionLeaked(self.name, where))
            _log.warning("%s: a greenlet ended with a connection it borrowed at:\n%s", self.name, where)
        gevent.spawn(self._bring_home, member, self._line)

    def _bring_home(self, member: Member, line: WaitLine) -> None:
        try:
            if self._reuse_taken_back:
                self._receive(member)
            else:
                # Somebody may still hold a reference: lent to two, it would freeze the process.
                self._throw_away(member)
        finally:
            line.release()

    def _after_fork(self) -> None:
        """Forget the parent's connections: a byte from here on their sockets would break them."""
        self._lock = RLock()
        parents = [*self._idle, *self._lent.values()]
        self._stale = {id(member.conn): member.conn for member in parents}
        nowhere = os.open(os.devnull, os.O_RDWR)
        for member in parents:
            member.on_owner_end = None
            os.dup2(nowhere, member.fd)
        os.close(nowhere)
        self._start_empty()


def _reset_pools_after_fork() -> None:
    for pool in list(_pools):
        pool._after_fork()  # noqa: SLF001 - this file's own class


_pools: weakref.WeakSet[ConnectionPool[Any]] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_pools_after_fork)
