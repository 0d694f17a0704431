"""A budget whose store is shared with other processes; the agent carries what it has to say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from greenkit.limits._agent import agent_of
from greenkit.limits._budget import Budget
from greenkit.limits._news import Try
from greenkit.limits._queue import NORMAL, parker_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock
    from greenkit.limits._agent import Wire
    from greenkit.limits._protocol import Reply, Request
    from greenkit.limits._queue import Waiter
    from greenkit.limits._rules import Amounts
    from greenkit.limits._shared import SharedStore

__all__ = ["SharedBudget"]

# A backend that is silent for so long is away, whatever its client is still waiting for; and for so much
# longer after that was first seen: a process that was kept busy sees the time before it sees the answer.
_SILENCE, _SECOND_LOOK = 0.25, 0.05
# While somebody waits the agent is seen to be alive.
_LOOK = 0.5


class SharedBudget(Budget):
    """Grant what a shared store books for this process.

    Args:
        store: This process's part.
        clock: Where `now` comes from.
        name: Shown in errors.
        record: Name of the record in the backend.
        backend: What tells one backend from another.
        connect: Makes the wire to it.
    """

    __slots__ = ("_backend", "_connect", "_looked_at", "_silent", "record")

    store: SharedStore

    def __init__(
        self,
        store: SharedStore,
        *,
        clock: Clock,
        name: str,
        record: str,
        backend: object,
        connect: Callable[[], Wire],
    ) -> None:
        super().__init__(store, clock=clock, name=name)
        self._looked_at = -math.inf
        self._silent = (math.inf, 0.0)  # of which request it was first seen that it has no answer, and when
        self.record = record
        self._backend = backend
        self._connect = connect
        if agent_of(backend, connect).away:
            store.lost(self.now())  # as all know by now; no need to wait for it once more

    def take_nowait(self, costs: Amounts) -> float:
        """Take `costs` if they are in hand, else say anything but 0; never asks. Switches: never."""
        with self.lock:
            if self.store.mode != "shared":
                self._tell()  # whoever met the backend away has to ask for it to come back
            return 1.0 if self.queue.waiting else self.store.admit(costs, self.now(), credit=0.0)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """Take `costs` when their turn has come and the backend has booked them; see `Budget.take()`.

        Switches: may.
        """
        if until <= self.now() and not self.try_take(costs):
            return  # no time to wait is time enough to ask
        super().take(costs, lane=lane, until=until)

    def try_take(self, costs: Amounts) -> float:
        """Take `costs` if nobody waits here and the backend lets them go now.

        Returns:
            0.0 when taken, else the seconds after which they would pass.

        Switches: may.
        """
        with self.lock:
            if self.queue.waiting:
                return max(self.store.eta(costs, self.queue.ahead(NORMAL), self.now()), 1e-9)
            if self.store.mode != "shared":
                return self._alone(costs)
            if not self.store.admit(costs, self.now(), credit=0.0):
                return 0.0
            parker = parker_here()
            one = Try(costs, parker)
            self.store.tries.append(one)
            self._tell()
        try:
            while one.answer is None:
                parker.park(max(_SECOND_LOOK, min(_SILENCE, self._verdict_at() - self.now())))
                if one.answer is None:
                    self._look_at_silence()
        except BaseException:
            with self.lock:
                one.left = True
                if one.answer == 0.0:
                    self.store.take_back(costs, self.now())
                    self._tell()
            raise
        return one.answer

    # -- for the agent -------------------------------------------------------------------------------

    def wants(self) -> float:
        """Return the seconds until this budget has something to say; 0 or less for now, `inf` for nothing.

        Switches: never.
        """
        with self.lock:
            now = self.now()
            at = self.store.wants(self.queue, now)
            return 0.0 if at <= now else at - now

    def compose(self) -> Request:
        """Return all there is to say. Switches: never."""
        with self.lock:
            return self.store.compose(self.queue, self.now())

    def apply(self, reply: Reply) -> None:
        """Take the answer in. Switches: never."""
        with self.lock:
            for one in self.store.answered(reply, self.now()):
                if one.answer == 0.0 and not one.left:
                    self.store.grant()
                if one.answer is None:
                    one.answer = 0.1
                one.parker.wake()
            self._look_soon()

    def lost(self, error: BaseException) -> None:
        """Go on without the backend. Switches: never."""
        with self.lock:
            for one in self.store.lost(self.now()):
                if not one.left:
                    one.answer = self._alone(one.costs)
                one.parker.wake()
            self._look_soon()

    # -- the lock is held in all that follows --------------------------------------------------------

    def _alone(self, costs: Amounts) -> float:
        self._tell()
        now = self.now()
        wait = self.store.admit(costs, now, credit=0.0)
        return wait if wait < math.inf else max(self.store.eta(costs, (0.0,) * len(costs), now), 1e-9)

    def _tell(self) -> None:
        agent_of(self._backend, self._connect).serve(self)

    def _look_at_silence(self) -> None:
        with self.lock:
            if self._is_silent(self.now()):
                self.lost(TimeoutError())
            else:
                self._tell()

    def _is_silent(self, now: float) -> bool:
        """Tell whether the backend does not answer, though this process has looked twice."""
        asked_at = self.store.asked_at
        if now - asked_at < _SILENCE:
            return False
        if self._silent[0] != asked_at:
            self._silent = (asked_at, now)
        return now - self._silent[1] >= _SECOND_LOOK

    def _verdict_at(self) -> float:
        """Return when to look whether the backend has answered."""
        asked_at, seen_at = self.store.asked_at, self._silent[1]
        return seen_at + _SECOND_LOOK if self._silent[0] == asked_at else asked_at + _SILENCE

    def _next(self, now: float) -> Waiter | None:
        if self._is_silent(now):
            self.lost(TimeoutError())
        elif now - self._looked_at >= _LOOK:
            self._looked_at = now
            self._tell()
        return super()._next(now)

    def _set_timer(self, head: Waiter, due: float, now: float) -> None:
        self._time(head, min(due, self.queue.next_expiry(), self._verdict_at(), now + _LOOK), now)
