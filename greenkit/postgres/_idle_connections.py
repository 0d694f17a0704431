"""The connections of a pool: which are idle, which may be lent, how many there are.

Every caller holds a slot of the pool's `WaitLine`, or has taken one for the purpose; so the count never
exceeds the slots. Queueing and checking out are in `_pool`.
"""

from __future__ import annotations

import logging
import random
import sys
from _thread import RLock  # native also after patching (gevent 26 leaves this name alone)
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from greenkit.errors import PoolClosedError, WaitTimeout
from greenkit.postgres import _closing, _driver
from greenkit.postgres._checkout import PooledConnection
from greenkit.postgres._connector import Connector
from greenkit.postgres._deadline import current, lifted
from greenkit.postgres._deadline import deadline as deadline_of_queries
from greenkit.postgres._reconnect import ReconnectState
from greenkit.wait import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.postgres._settings import Settings

__all__ = ["IdleConnections"]

_log = logging.getLogger("greenkit.postgres")
_CLEANUP_TIMEOUT = (
    5.0  # seconds for a check, or for the rollback and the reset of a connection that comes back
)
_NEVER = Deadline.after(None)
_IDLE = _driver.IDLE


class IdleConnections:
    """Open, keep, examine and close connections, as `settings` say; `min_size` and `max_size` may change."""

    def __init__(self, connect: Callable[[], Any], settings: Settings) -> None:
        self._connect, self.settings, self._reset = connect, settings, settings.reset
        self.min_size, self.max_size, self.check = settings.min_size, settings.max_size, settings.check
        self._random = random.Random()
        self._now = settings.clock.now
        self._driver: _driver.Driver | None = None
        self._generation = 0
        self.reconnect = ReconnectState(timeout=settings.reconnect_timeout, clock=settings.clock)
        self.idle: deque[PooledConnection] = deque()
        self.size = self.peak = self.created = self.thrown_away = 0
        self._opening = 0  # of `size`, those whose connect is under way
        self.checking = 0  # connections whose check is under way
        self.check_error: Exception | None = None
        self.closed = False
        self.lock = RLock()  # guards the counters; never held across a switch
        self.connector = Connector(self._open, self.put, self.reconnect, self.lock)

    @property
    def operational_error(self) -> type[Exception] | None:
        """Return the driver's error; guessed from what is loaded before the first connection."""
        driver = self._driver or _driver.guess()
        return driver.operational_error if driver else None

    def error_named(self, name: str) -> type[Exception] | None:
        """Return psycopg_pool's error of that name where it is loaded, else the driver's.

        So that code written for psycopg_pool, or for Django's own pool, goes on catching it.
        """
        own = self.operational_error
        theirs = getattr(sys.modules.get("psycopg_pool"), name, None)
        return theirs if theirs is not None and own is not None and issubclass(theirs, own) else own

    def find(self, until: Deadline) -> PooledConnection:
        """Return an idle connection that works, the last one used first, or a new one."""
        earlier = self.check_error
        pooled = self.find_nowait(until)
        if pooled is None and until.expired and self.check_error is not earlier:
            msg = f"the check of an idle connection lasted until the deadline: {self.check_error}"
            raise WaitTimeout(msg) from self.check_error
        return pooled or self.connector.get(
            until,
            idle=self._pop,
            refused=self.operational_error or _NoDriverError,
            open_now=self._open_now,
        )

    def find_nowait(self, until: Deadline = _NEVER) -> PooledConnection | None:
        """Return an idle connection that works, or None; waits only for a `check` of the user's.

        Each check has half of the time that is left, so that some remains for a new connection.
        """
        check, idle = self.check, self.idle
        while idle:
            try:
                pooled = idle.pop()
            except IndexError:  # another native thread was faster
                break
            pooled.lent_at = now = self._now()
            sound = check is None and self._is_wanted(pooled, now) and pooled.looks_open()
            if sound or self._passes(pooled, check, until):
                return pooled
        return None

    def add(self) -> None:
        """Open a connection and make it idle."""
        try:
            pooled = self._open(Deadline.earliest(current(), Deadline.after(self.settings.timeout)))
        except Exception as error:
            refused = self.operational_error
            if refused is not None and isinstance(error, refused) and not isinstance(error, WaitTimeout):
                self.reconnect.note_failure(error, open_now=self._open_now())
            raise
        self.reconnect.note_success()
        self.put(pooled)

    def put(self, pooled: PooledConnection) -> None:
        """Hand a working connection to the longest waiter, or make it idle; a closed pool closes it."""
        # Waiters queue before their last look at `idle`; here it is filled first, then they are looked for.
        # So none is missed, and without waiters no lock is taken. The same holds for closing the pool.
        self.idle.append(pooled)
        if self.closed:
            self._close_idle()
        elif self.connector.waiters:
            self.connector.serve_waiters(self._pop)

    def missing(self) -> int:
        """Return how many connections `min_size` lacks; none while the server refuses."""
        return 0 if self.closed or self.reconnect.refuses else max(0, self.min_size - self.size)

    def _pop(self) -> PooledConnection | None:
        try:
            return self.idle.pop()
        except IndexError:  # another native thread may have been faster
            return None

    def _open_now(self) -> int:
        return self.size - self._opening

    def take_back(self, pooled: PooledConnection, *, suspect: bool = False) -> None:
        """Make `pooled` idle, or close it when it is not fit to be lent again.

        Args:
            pooled: What its borrower gave back, or lost by ending.
            suspect: A kill ended its borrower, which may have left locks and settings in the session.
        """
        # Behind PgBouncer a session's state is not the connection's: closing it would clear nothing.
        if suspect and not self.settings.pgbouncer:
            self.discard(pooled)
            return
        now, sound = self._now(), False
        try:
            if self._is_wanted(pooled, now) and _closing.await_cancel(pooled.raw):
                # Nothing is open in a session whose transaction status is idle; a closed one's is unknown.
                sound = (self._reset is None and pooled.status() == _IDLE) or self._reset_session(pooled)
        except Exception:
            # A failed rollback or reset: it is not sound.
            _log.debug("%s: a connection could not be reset", self.settings.name, exc_info=True)
        finally:
            if not sound:
                self.discard(pooled)
        if sound:
            pooled.idle_since = now
            self.put(pooled)

    def discard(self, pooled: PooledConnection) -> None:
        """Close `pooled` and see its backend off; it counts until that is done."""
        driver, conn = self._driver, pooled.raw
        try:
            if driver is not None:
                busy = not conn.closed and pooled.status() == _driver.ACTIVE
                (driver.abandon if busy else driver.close)(conn)
        except Exception:
            # It is going either way.
            _log.debug("%s: closing a connection failed", self.settings.name, exc_info=True)
        finally:
            with self.lock:
                self.size -= 1
                self.thrown_away += 1

    def has_expired(self) -> bool:
        """Tell whether the longest idle connection has to go."""
        try:
            oldest = self.idle[0]
        except IndexError:
            return False
        now = self._now()
        surplus = len(self.idle) > self.min_size and now - oldest.idle_since >= self.settings.max_idle
        return surplus or not self._is_wanted(oldest, now)

    def close_expired(self) -> None:
        """Close the longest idle connection if it still has to go; in a slot of the caller's."""
        if self.has_expired():
            self.close_oldest()

    def examine(self, *, ask: bool) -> None:
        """Keep the longest idle connection if it is sound; `ask` the server, or only look."""
        try:
            pooled = self.idle.popleft()  # taken: two threads may not look at one at the same time
        except IndexError:
            return  # lent in the meantime
        if self._passes(pooled, (self.check or _ping) if ask else None):
            self.put(pooled)

    def outdate(self) -> None:
        """Have every connection there is now replaced: idle ones when next looked at."""
        self._generation += 1

    def close(self) -> None:
        """Close what is idle, and from now on whatever comes back."""
        self.closed = True
        self.connector.close(f"the pool {self.settings.name!r} was closed while a connection was wanted")
        self._close_idle()

    def _close_idle(self) -> None:
        while self.idle:
            self.close_oldest()

    def forget(self) -> list[PooledConnection]:
        """Return what is idle and keep nothing: after a fork it belongs to the parent."""
        self.lock = RLock()  # another thread may have held the old one for ever
        self.connector = Connector(self._open, self.put, self.reconnect, self.lock)
        forgotten = list(self.idle)
        self.idle = deque()
        self.size = self._opening = 0
        return forgotten

    def _passes(
        self, pooled: PooledConnection, check: Callable[[Any], object] | None, until: Deadline = _NEVER
    ) -> bool:
        """Tell whether `pooled` may be lent; it is closed otherwise."""
        sound = False
        try:
            if self._is_wanted(pooled, self._now()) and pooled.looks_open():
                if check is not None:
                    self._run_check(check, pooled, until)
                sound = True
        except Exception as error:
            # Whatever the check raises is its way of saying no.
            self.check_error = error
            _log.debug("%s: a connection failed its check", self.settings.name, exc_info=True)
        finally:
            if not sound:
                self.discard(pooled)
        return sound

    def _run_check(self, check: Callable[[Any], object], pooled: PooledConnection, until: Deadline) -> None:
        limit = until.timeout()
        with self.lock:
            self.checking += 1
        try:
            # A black-holed connection answers nothing, and keepalives do not notice a load balancer
            # that acknowledges for the server.
            with deadline_of_queries(_CLEANUP_TIMEOUT if limit is None else min(limit / 2, _CLEANUP_TIMEOUT)):
                check(pooled.conn)
        finally:
            with self.lock:
                self.checking -= 1

    def _is_wanted(self, pooled: PooledConnection, now: float) -> bool:
        return (
            pooled.generation == self._generation and self.size <= self.max_size and now < pooled.expires_at
        )

    def _open(self, until: Deadline) -> PooledConnection:
        if self.closed:
            msg = f"the pool {self.settings.name!r} was closed while a connection was wanted"
            raise PoolClosedError(msg)
        with self.lock:
            self.size += 1  # reserve first: connecting switches, and it counts
            self._opening += 1
            self.peak = max(self.peak, self.size)
        try:
            # Not within whatever deadline is in force here: it may be of a caller that is served already.
            with lifted(until.timeout()), _closing.counted():
                pooled = self._member_of(self._connect())
        except BaseException:
            with self.lock:
                self.size -= 1
                self._opening -= 1
            raise
        with self.lock:
            self._opening -= 1
            self.created += 1
        return pooled

    def _member_of(self, conn: Any) -> PooledConnection:
        if self._driver is None:
            self._driver = _driver.driver_of(conn)
        status = _driver.status_of(_driver.raw(conn))
        if self.settings.query_timeout is not None:
            with suppress(AttributeError):  # psycopg2's own class: without `install()` nothing could keep it
                _driver.raw(conn).gk_query_timeout = self.settings.query_timeout
        try:
            if self.settings.pgbouncer and hasattr(conn, "prepare_threshold"):
                conn.prepare_threshold = None  # another server process would not know the statement
            if self.settings.configure is not None:
                self.settings.configure(conn)
                if status() != _driver.IDLE:
                    conn.commit()
        except BaseException:
            self._driver.close(_driver.raw(conn))
            raise
        lifetime = self.settings.max_lifetime * self._random.uniform(0.9, 1.0)
        return PooledConnection(
            conn, status=status, now=self._now(), lifetime=lifetime, generation=self._generation
        )

    def _reset_session(self, pooled: PooledConnection) -> bool:
        """Roll back and reset its connection; tell whether it is fit to be lent again."""
        reset, status = self._reset, pooled.status()
        conn = pooled.raw
        if conn.closed or status == _driver.ACTIVE:
            return False
        # The borrower's deadline may be over, and without one a dead network would keep the slot.
        with lifted(_CLEANUP_TIMEOUT):
            if status != _IDLE:
                conn.rollback()
            if reset is not None:
                reset(pooled.conn)
        return not conn.closed and pooled.status() == _IDLE

    def close_oldest(self) -> None:
        """Close the longest idle connection."""
        try:
            pooled = self.idle.popleft()
        except IndexError:
            return  # lent in the meantime
        self.discard(pooled)


class _NoDriverError(Exception):
    """Stand in for the driver's error where no driver is loaded; never raised."""


def _ping(conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
    if not conn.autocommit:
        conn.rollback()
