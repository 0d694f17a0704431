"""Give a caller that found no idle connection whatever comes first: one that comes back, or a new one.

Connects are made in greenlets of their own, never more than callers wait, and what they open goes to the
caller that has waited longest. So nobody waits for his own connect while a connection lies idle: a server
that lets in fewer than `max_size`, or a connect that hangs, costs nobody but itself. In an unpatched process
each caller connects in its own thread, and takes what comes back between two attempts.
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

    from greenkit.postgres._loan import Member
    from greenkit.postgres._outage import Outage

__all__ = ["Growth"]


class _Seeker:
    """One caller that waits for a connection; it holds a slot of the pool's line."""

    __slots__ = ("_answered", "_notified", "error", "member", "until")

    def __init__(self, until: Deadline) -> None:
        self.until = until
        self.member: Member | None = None
        self.error: BaseException | None = None
        self._answered = WaitLine(1, name="connection")
        self._answered.acquire_nowait()
        self._notified = False

    def answer(self, member: Member | None, error: BaseException | None = None) -> None:
        self.member, self.error = member, error
        self.notify()

    def notify(self) -> None:
        """Wake it; the pool's lock is held, and whoever is woken looks under that lock what has changed."""
        if not self._notified:
            self._notified = True
            self._answered.release()

    def wait(self, seconds: float | None) -> None:
        """Return when it is notified; WaitTimeout after `seconds`."""
        self._answered.acquire(timeout=seconds)
        self._notified = False


class Growth:
    """Hand connections to the callers that wait for one, and open what they lack.

    Args:
        open_one: Opens a connection by a deadline; raises what the driver raises.
        put: Takes a connection that nobody waits for any more.
        outage: What is known of the server.
        lock: Guards the shelf's `idle` and `size`; native, never held across a switch.
    """

    def __init__(
        self,
        open_one: Callable[[Deadline], Member],
        put: Callable[[Member], None],
        outage: Outage,
        lock: Any,
    ) -> None:
        self._open_one, self._put, self._outage, self._lock = open_one, put, outage, lock
        self.seekers: deque[_Seeker] = deque()
        self._attempts: set[Any] = set()
        self._closed = ""

    @property
    def attempts(self) -> int:
        """Return how many connects are under way for those who wait."""
        return len(self._attempts)

    def hand_out(self, idle: Callable[[], Member | None]) -> None:
        """Give what `idle` takes to the callers that have waited longest. Switches: never."""
        with self._lock:
            while self.seekers and (member := idle()) is not None:
                self.seekers.popleft().answer(member)

    def get(
        self,
        until: Deadline,
        *,
        idle: Callable[[], Member | None],
        refused: type[Exception],
        open_now: Callable[[], int],
    ) -> Member:
        """Return the connection that comes first.

        Args:
            until: When to give up.
            idle: Takes an idle connection, asked once more with the lock held.
            refused: The driver's class for a server that does not let us in.
            open_now: Counts the connections that are open.

        Raises:
            WaitTimeout: `until` passed; its cause is the server's last error, if it refuses.

        Switches: may.
        """
        seeker = _Seeker(until)
        with self._lock:
            # Queue, then look: what comes back after this look finds the caller here.
            self.seekers.append(seeker)
            found = idle()
            refuse = found is None and self._refuses_at_once()
        if found is not None or refuse:
            self._leave(seeker)
            if found is None:
                raise refused(str(self._outage.last))
            return found
        try:
            if monkey.is_module_patched("socket"):
                self._grow(refused, open_now)
                self._wait(seeker, until.timeout())
            else:
                self._connect_here(seeker, refused, open_now)
        except BaseException:
            self._leave(seeker)
            raise
        if seeker.error is not None:
            raise seeker.error
        assert seeker.member is not None
        return seeker.member

    def close(self, reason: str) -> None:
        """Tell everybody who waits that nothing will come, and stop connecting. Switches: never."""
        with self._lock:
            self._closed = reason
            waiting, self.seekers = self.seekers, deque()
            for seeker in waiting:
                seeker.answer(None, PoolClosedError(reason))
            greenlets = [one for one in self._attempts if isinstance(one, gevent.Greenlet)]
        gevent.killall(greenlets, block=False)

    def forget(self) -> None:
        """Forget callers and connects that exist only in the parent of a fork. Switches: never."""
        self.seekers, self._attempts = deque(), set()

    def _refuses_at_once(self) -> bool:
        outage = self._outage
        # Somebody has just tried, or is trying.
        return outage.is_over_patience and bool(outage.pause or self._attempts)

    def _wait(self, seeker: _Seeker, seconds: float | None) -> None:
        try:
            seeker.wait(seconds)
        except WaitTimeout:
            last = self._outage.last if self._outage.refuses else None
            raise WaitTimeout(str(last or "no connection was made in time")) from last

    def _leave(self, seeker: _Seeker) -> None:
        """Pass on what was handed to a caller that goes without taking it."""
        with self._lock:
            if seeker in self.seekers:
                self.seekers.remove(seeker)
                return
        if seeker.member is not None:
            self._put(seeker.member)

    # -- connecting in greenlets --------------------------------------------------

    def _grow(self, refused: type[Exception], open_now: Callable[[], int]) -> None:
        """Have as many connects under way as callers wait; only one while the server refuses."""
        with self._lock:
            wanted = len(self.seekers) if not self._outage.refuses else min(1, len(self.seekers))
            missing = wanted - len(self._attempts)
            for _ in range(missing):
                attempt = gevent.Greenlet(self._attempt, refused, open_now)
                self._attempts.add(attempt)
                attempt.start()

    def _attempt(self, refused: type[Exception], open_now: Callable[[], int]) -> None:
        me = gevent.getcurrent()
        try:
            if pause := self._outage.pause:
                gevent.sleep(pause)
            until = self._latest()
            if until is None:
                return  # everybody was served by what came back
            member = self._open_one(until)
        except Exception as error:
            with self._lock:
                self._attempts.discard(me)
            self._failed(error, refused, open_now)
        else:
            with self._lock:
                self._attempts.discard(me)
            self._outage.end()
            self._put(member)
        finally:
            self._attempts.discard(me)
            if not self._closed:
                self._grow(refused, open_now)

    def _latest(self) -> Deadline | None:
        with self._lock:
            return max((seeker.until for seeker in self.seekers), key=lambda until: until.at, default=None)

    def _failed(self, error: Exception, refused: type[Exception], open_now: Callable[[], int]) -> None:
        """Tell one caller of an error that no other attempt will mend."""
        if isinstance(error, refused) and not isinstance(error, WaitTimeout):
            if self._outage.bear(error, open_now=open_now()):
                return
        elif isinstance(error, WaitTimeout):
            return  # it was given the latest deadline of all: each caller says so for itself
        with self._lock:
            if self.seekers:
                self.seekers.popleft().answer(None, error)

    # -- connecting in the caller's own thread -------------------------------------

    def _connect_here(self, seeker: _Seeker, refused: type[Exception], open_now: Callable[[], int]) -> None:
        while not self._is_served(seeker):
            pause = self._outage.pause
            if pause or not self._may_connect(seeker):
                try:
                    seeker.wait(min(pause, seeker.until.remaining()) if pause else seeker.until.timeout())
                except WaitTimeout:
                    if seeker.until.expired:
                        self._wait(seeker, 0)
                continue
            try:
                member = self._open_one(seeker.until)
            except BaseException as error:
                self._end_here(seeker)
                passing = isinstance(error, refused) and not isinstance(error, WaitTimeout)
                if not (passing and self._outage.bear(error, open_now=open_now())):  # type: ignore[arg-type]
                    raise
                continue
            self._end_here(seeker)
            self._outage.end()
            with self._lock:
                if seeker in self.seekers:
                    self.seekers.remove(seeker)
                    seeker.member = member
                    return
            self._put(member)  # it was handed another meanwhile

    def _is_served(self, seeker: _Seeker) -> bool:
        with self._lock:
            return seeker not in self.seekers

    def _may_connect(self, seeker: _Seeker) -> bool:
        """Reserve an attempt; one of a caller that was served meanwhile counts, too."""
        with self._lock:
            may = len(self._attempts) < len(self.seekers)
            if may:
                self._attempts.add(seeker)
            return may

    def _end_here(self, seeker: _Seeker) -> None:
        with self._lock:
            self._attempts.discard(seeker)
            for other in self.seekers:
                if other is not seeker:
                    other.notify()  # it may have waited for this attempt
                    break
