"""The connections of a pool: which are idle, which are fit to be lent, how many there are.

Every caller holds a slot of the pool's `WaitLine`, or has taken one for the purpose; so what is
counted here never exceeds the slots. Waiting in line and lending are `_pool`'s.
"""

from __future__ import annotations

import logging
import random
from _thread import RLock  # native also after patching (gevent 26 leaves this name alone)
from collections import deque
from typing import TYPE_CHECKING, Any

from greenkit.postgres import _driver
from greenkit.postgres._deadline import deadline as deadline_of_queries
from greenkit.postgres._loan import Member

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock
    from greenkit.wait import Deadline, WaitLine

__all__ = ["Shelf"]

_log = logging.getLogger("greenkit.postgres")


class Shelf:
    """Open, keep, examine and close connections; the arguments are `ConnectionPool`'s."""

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        min_size: int,
        max_lifetime: float,
        max_idle: float,
        check: Callable[[Any], object] | None,
        reset: Callable[[Any], object] | None,
        clock: Clock,
        name: str,
    ) -> None:
        self._connect = connect
        self._min_size, self._max_lifetime, self._max_idle = min_size, max_lifetime, max_idle
        self._check, self._reset = check, reset
        self._clock, self._name = clock, name
        self._random = random.Random()
        self._driver: _driver.Driver | None = None
        self.idle: deque[Member] = deque()
        self.size = self.peak = self.created = self.thrown_away = 0
        self.closed = False
        self.lock = RLock()  # guards the counters; never held across a switch

    @property
    def operational_error(self) -> type[Exception] | None:
        """Return the driver's error; guessed from what is loaded before the first connection."""
        driver = self._driver or _driver.guess()
        return driver.operational_error if driver else None

    def find(self, until: Deadline) -> Member:
        """Return an idle connection that works, the last one used first, or a new one.

        Switches: may.
        """
        while self.idle:
            try:
                member = self.idle.pop()
            except IndexError:  # another native thread was faster
                break
            if self._passes(member):
                return member
        return self._open(until)

    def receive(self, member: Member) -> None:
        """Make `member` idle, or close it when it is not fit to be lent again.

        Switches: may.
        """
        sound = False
        try:
            sound = not self.closed and self._wipe(member.conn)
        except Exception:
            # A failed rollback or reset: it is not sound.
            _log.debug("%s: a connection could not be reset", self._name, exc_info=True)
        finally:
            if not sound:
                self.throw_away(member)
        if sound:
            member.idle_since = self._clock.now()
            self.idle.append(member)

    def throw_away(self, member: Member) -> None:
        """Close `member` and see its backend off; it counts until that is done.

        Switches: may.
        """
        driver, conn = self._driver, member.conn
        try:
            if driver is not None:
                busy = not conn.closed and _driver.status(conn) == _driver.ACTIVE
                (driver.abandon if busy else driver.close)(conn)
        except Exception:
            # It is going either way.
            _log.debug("%s: closing a connection failed", self._name, exc_info=True)
        finally:
            with self.lock:
                self.size -= 1
                self.thrown_away += 1

    def evict(self, line: WaitLine) -> None:
        """Close the longest idle connection when it has idled too long.

        Switches: may.
        """
        try:
            oldest = self.idle[0]
        except IndexError:
            return
        if self._clock.now() - oldest.idle_since < self._max_idle or len(self.idle) <= self._min_size:
            return
        # A slot of its own, or there is no room for a connection that is neither idle nor lent.
        if line.acquire_nowait():
            try:
                self._close_oldest()
            finally:
                line.release()

    def close(self) -> None:
        """Close what is idle, and from now on whatever comes back.

        Switches: may.
        """
        self.closed = True
        while self.idle:
            self._close_oldest()

    def forget(self) -> list[Member]:
        """Return what is idle and keep nothing: after a fork it belongs to the parent.

        Switches: never.
        """
        self.lock = RLock()  # another thread may have held the old one for ever
        forgotten = list(self.idle)
        self.idle = deque()
        self.size = 0
        return forgotten

    def _passes(self, member: Member) -> bool:
        """Tell whether `member` may be lent; it is closed otherwise."""
        sound = False
        try:
            if self._clock.now() < member.expires_at and member.looks_alive():
                if self._check is not None:
                    self._check(member.conn)
                sound = True
        except Exception:
            # Whatever the check raises is its way of saying no.
            _log.debug("%s: a connection failed its check", self._name, exc_info=True)
        finally:
            if not sound:
                self.throw_away(member)
        return sound

    def _open(self, until: Deadline) -> Member:
        with self.lock:
            self.size += 1  # reserve first: connecting switches, and it counts
            self.peak = max(self.peak, self.size)
        try:
            with deadline_of_queries(until.timeout()):
                conn: Any = self._connect()
            if self._driver is None:
                self._driver = _driver.driver_of(conn)
            lifetime = self._max_lifetime * self._random.uniform(0.9, 1.0)
            member = Member(conn, expires_at=self._clock.now() + lifetime)
        except BaseException:
            with self.lock:
                self.size -= 1
            raise
        with self.lock:
            self.created += 1
        return member

    def _wipe(self, conn: Any) -> bool:
        """Roll back and reset `conn`; tell whether it is fit to be lent again."""
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

    def _close_oldest(self) -> None:
        try:
            member = self.idle.popleft()
        except IndexError:
            return  # lent in the meantime
        self.throw_away(member)
