"""Serve callers that found no idle connection: with one that is returned, or with a new one.

Connects run in greenlets of their own, never more than there are waiters, and each new connection goes to
the longest waiter. So no caller waits for a connect of its own while a connection is idle: a server that
accepts fewer than `max_size`, or a connect that hangs, delays no one else. In an unpatched process each
caller connects in its own thread, and takes what is returned between two attempts.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey

from greenkit.errors import PoolClosedError, WaitTimeout
from greenkit.wait import Deadline, WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.postgres._checkout import PooledConnection
    from greenkit.postgres._reconnect import ReconnectState

__all__ = ["Connector"]


class _Waiter:
    """One caller that waits for a connection; it holds a slot of the pool's line."""

    __slots__ = ("_answered", "_notified", "error", "pooled", "until")

    def __init__(self, until: Deadline) -> None:
        self.until = until
        self.pooled: PooledConnection | None = None
        self.error: BaseException | None = None
        self._answered = WaitLine(1, name="connection")
        self._answered.acquire_nowait()
        self._notified = False

    def answer(self, pooled: PooledConnection | None, error: BaseException | None = None) -> None:
        self.pooled, self.error = pooled, error
        self.notify()

    def notify(self) -> None:
        """Wake it, with the pool's lock held; the woken caller reads its result under the same lock."""
        if not self._notified:
            self._notified = True
            self._answered.release()

    def wait(self, seconds: float | None) -> None:
        """Return when it is notified; WaitTimeout after `seconds`."""
        self._answered.acquire(timeout=seconds)
        self._notified = False


class Connector:
    """Hand connections to the callers that wait for one, and open what they lack.

    Args:
        open_one: Opens a connection by a deadline; raises what the driver raises.
        put: Takes a connection that nobody waits for any more.
        outage: What is known of the server.
        lock: Guards the shelf's `idle` and `size`; native, never held across a switch.
    """

    def __init__(
        self,
        open_one: Callable[[Deadline], PooledConnection],
        put: Callable[[PooledConnection], None],
        reconnect: ReconnectState,
        lock: Any,
    ) -> None:
        self._open_one, self._put, self._reconnect, self._lock = open_one, put, reconnect, lock
        self.waiters: deque[_Waiter] = deque()
        self._attempts: set[Any] = set()
        self._closed = ""

    @property
    def attempts(self) -> int:
        """Return how many connects are under way for those who wait."""
        return len(self._attempts)

    def serve_waiters(self, idle: Callable[[], PooledConnection | None]) -> None:
        """Give what `idle` takes to the callers that have waited longest."""
        with self._lock:
            while self.waiters and (pooled := idle()) is not None:
                self.waiters.popleft().answer(pooled)

    def get(
        self,
        until: Deadline,
        *,
        idle: Callable[[], PooledConnection | None],
        refused: type[Exception],
        open_now: Callable[[], int],
    ) -> PooledConnection:
        """Return the connection that comes first.

        Args:
            until: When to give up.
            idle: Takes an idle connection, asked once more with the lock held.
            refused: The driver's class for a server that does not let us in.
            open_now: Counts the connections that are open.

        Raises:
            WaitTimeout: `until` passed; its cause is the server's last error, if it refuses.
        """
        waiter = _Waiter(until)
        with self._lock:
            # Queue, then look: what comes back after this look finds the caller here.
            self.waiters.append(waiter)
            found = idle()
            refuse = found is None and self._refuses_at_once()
        if found is not None or refuse:
            self._leave(waiter)
            if found is None:
                raise refused(str(self._reconnect.last))
            return found
        try:
            if monkey.is_module_patched("socket"):
                self._grow(refused, open_now)
                self._wait(waiter, until.timeout())
            else:
                self._connect_here(waiter, refused, open_now)
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error
        assert waiter.pooled is not None
        return waiter.pooled

    def close(self, reason: str) -> None:
        """Tell everybody who waits that nothing will come, and stop connecting."""
        with self._lock:
            self._closed = reason
            waiting, self.waiters = self.waiters, deque()
            for waiter in waiting:
                waiter.answer(None, PoolClosedError(reason))
            greenlets = [attempt for attempt in self._attempts if isinstance(attempt, gevent.Greenlet)]
        gevent.killall(greenlets, block=False)

    def forget(self) -> None:
        """Forget callers and connects that exist only in the parent of a fork."""
        self.waiters, self._attempts = deque(), set()

    def _refuses_at_once(self) -> bool:
        reconnect = self._reconnect
        # Somebody has just tried, or is trying.
        return reconnect.is_past_timeout and bool(reconnect.pause or self._attempts)

    def _wait(self, waiter: _Waiter, seconds: float | None) -> None:
        try:
            waiter.wait(seconds)
        except WaitTimeout:
            last = self._reconnect.last if self._reconnect.refuses else None
            raise WaitTimeout(str(last or "no connection was made in time")) from last

    def _leave(self, waiter: _Waiter) -> None:
        """Pass on what was handed to a caller that goes without taking it."""
        with self._lock:
            if waiter in self.waiters:
                self.waiters.remove(waiter)
                return
        if waiter.pooled is not None:
            self._put(waiter.pooled)

    # -- connecting in greenlets --------------------------------------------------

    def _grow(self, refused: type[Exception], open_now: Callable[[], int]) -> None:
        """Have as many connects under way as callers wait; only one while the server refuses."""
        with self._lock:
            wanted = len(self.waiters) if not self._reconnect.refuses else min(1, len(self.waiters))
            missing = wanted - len(self._attempts)
            for _ in range(missing):
                attempt = gevent.Greenlet(self._attempt, refused, open_now)
                self._attempts.add(attempt)
                attempt.start()

    def _attempt(self, refused: type[Exception], open_now: Callable[[], int]) -> None:
        me = gevent.getcurrent()
        try:
            if pause := self._reconnect.pause:
                gevent.sleep(pause)
            until = self._latest()
            if until is None:
                return  # everybody was served by what came back
            pooled = self._open_one(until)
        except Exception as error:
            with self._lock:
                self._attempts.discard(me)
            self._failed(error, refused, open_now)
        else:
            with self._lock:
                self._attempts.discard(me)
            self._reconnect.note_success()
            self._put(pooled)
        finally:
            self._attempts.discard(me)
            if not self._closed:
                self._grow(refused, open_now)

    def _latest(self) -> Deadline | None:
        with self._lock:
            return max((waiter.until for waiter in self.waiters), key=lambda until: until.at, default=None)

    def _failed(self, error: Exception, refused: type[Exception], open_now: Callable[[], int]) -> None:
        """Tell one caller of an error that no other attempt will mend."""
        if self._will_pass(error, refused, open_now) or isinstance(error, WaitTimeout):
            return  # after the latest deadline of all each caller says for itself that it waited in vain
        with self._lock:
            if self.waiters:
                self.waiters.popleft().answer(None, error)

    def _will_pass(self, error: BaseException, refused: type[Exception], open_now: Callable[[], int]) -> bool:
        """Note a failed attempt; tell whether another may succeed."""
        if not isinstance(error, refused) or isinstance(error, WaitTimeout):
            return False
        return self._reconnect.note_failure(error, open_now=open_now())

    # -- connecting in the caller's own thread -------------------------------------

    def _connect_here(self, waiter: _Waiter, refused: type[Exception], open_now: Callable[[], int]) -> None:
        while not self._is_served(waiter):
            pause = self._reconnect.pause
            if pause or not self._may_connect(waiter):
                until = waiter.until
                try:
                    waiter.wait(min(pause, until.remaining()) if pause else until.timeout())
                except WaitTimeout:
                    if until.expired:
                        self._wait(waiter, 0)
                continue
            try:
                pooled = self._open_one(waiter.until)
            except BaseException as error:
                self._end_here(waiter)
                if not self._will_pass(error, refused, open_now):
                    raise
                continue
            self._end_here(waiter)
            self._reconnect.note_success()
            with self._lock:
                if waiter in self.waiters:
                    self.waiters.remove(waiter)
                    waiter.pooled = pooled
                    return
            self._put(pooled)  # it was handed another meanwhile

    def _is_served(self, waiter: _Waiter) -> bool:
        with self._lock:
            return waiter not in self.waiters

    def _may_connect(self, waiter: _Waiter) -> bool:
        """Reserve an attempt; one of a caller that was served meanwhile counts, too."""
        with self._lock:
            may = len(self._attempts) < len(self.waiters)
            if may:
                self._attempts.add(waiter)
            return may

    def _end_here(self, waiter: _Waiter) -> None:
        with self._lock:
            self._attempts.discard(waiter)
            for other in self.waiters:
                if other is not waiter:
                    other.notify()  # it may have waited for this attempt
                    break
