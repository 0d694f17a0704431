"""Who waits for a budget, and who wakes them: one queue, one timer.

Only the *head* is timed: a timer in its hub goes off at its instant (or when the first in the queue runs out
of time), books its cost and wakes it. So there is one timer however many wait, nobody overtakes, a pause
re-times one sleeper, and those who are killed have booked nothing.

A grant is on its way from the moment it is booked until its greenlet runs; one that dies in between
gives it back.
"""

from __future__ import annotations

import math
from _thread import RLock  # native also after patching; never held across a switch
from typing import TYPE_CHECKING, Any

from greenkit.errors import LimitTimeout
from greenkit.limits._fork import after_fork
from greenkit.limits._queue import Queue, Waiter, WakeTimer
from greenkit.limits._rules import JITTER_CREDIT
from greenkit.wait import hub_here

if TYPE_CHECKING:
    from greenkit._clock import Clock
    from greenkit.limits._rules import Amounts
    from greenkit.limits._store import LocalStore

__all__ = ["SLOT_RETRY", "Turns"]

# A head re-timed for less than this would cost more than it gains.
_WORTH_WAKING = 0.001
# When only a slot is missing nobody knows when one comes back; callers still need a number.
SLOT_RETRY = 0.1
# In a queue of several hubs each waiter looks so often whether the head is overdue: its hub may be busy, or
# its thread blocked in native code, and nobody behind it would be let through until then.
_OVERDUE = 0.25


class Turns:
    """Give those who wait their turn.

    Args:
        store: What is left.
        clock: Where `now` comes from.
        name: Shown in errors.

    Attributes:
        store: As given; to be changed only by who has the lock.
        queue: Who waits.
        lock: Around all of it; native, never held across a switch.
        now: The clock's.
    """

    __slots__ = (
        "__weakref__",
        "_head_at",
        "_hub",
        "_mixed",
        "_wake_timer",
        "lock",
        "name",
        "now",
        "queue",
        "store",
    )

    def __init__(self, store: LocalStore, *, clock: Clock, name: str) -> None:
        self.name = name
        self.store = store
        self.now = clock.now
        # Re-entrant, because the collector may end a forgotten permit while this thread is inside.
        self.lock = RLock()
        self.queue = Queue(len(store.rules.rules))
        self._wake_timer = WakeTimer(self._tick)
        self._head_at = math.inf
        # Of who waits: their hub (None: threads without one), and whether there are several.
        self._hub: Any = None
        self._mixed = False
        after_fork(self)

    def _sleep(self, waiter: Waiter) -> None:
        while not waiter.done:
            # No hub, no timer: such a thread looks after the queue itself while it is the head.
            seconds = waiter.check_at - self.now() if waiter.check_at < math.inf else math.inf
            if self._mixed:
                seconds = min(seconds, _OVERDUE)
            waiter.parker.park(None if seconds == math.inf else seconds)
            self._look_after_line(waiter)

    def _look_after_line(self, waiter: Waiter) -> None:
        now = self.now()
        overdue = self._mixed and self._head_at + _OVERDUE <= now
        if not waiter.done and (overdue or waiter.check_at <= now):
            waiter.check_at = math.inf
            self._tick()

    def _quit(self, waiter: Waiter) -> None:
        """Leave the queue with empty hands: killed, or timed out by somebody else's timer."""
        with self.lock:
            first = waiter.granted or self.queue.head() is waiter
            if waiter.granted:
                self.store.take_back(waiter.costs, self.now())
            else:
                self.queue.remove(waiter)
            if first:
                self._look_soon()
            self._tell()

    def _tick(self) -> None:
        """Grant to all who are due, time the next, and have those woken; whoever calls.

        Nobody is switched to from here: in a thread that is not patched a woken greenlet runs on
        natively, and whatever was still to be done after the switch would not be done for minutes.
        """
        woken: list[Waiter] = []
        with self.lock:
            try:
                while (waiter := self._next(self.now())) is not None:
                    woken.append(waiter)
            finally:  # also when Ctrl-C ends the loop: who was granted something must hear of it
                for waiter in woken:
                    waiter.parker.wake()

    def _join(self, waiter: Waiter) -> None:
        """Put `waiter` in the queue. The lock is held."""
        hub = waiter.parker.hub
        if not self.queue.waiting:
            self._hub, self._mixed = hub, False
        elif hub is not self._hub and not self._mixed:
            self._mixed = True
            for earlier in self.queue:  # from now on they look, too
                earlier.parker.wake()
        self.queue.add(waiter)

    # The lock is held in all that follows.

    def _next(self, now: float) -> Waiter | None:
        """Return one who need not wait any more, or set the timer."""
        queue, store = self.queue, self.store
        # Whose time is over before a pause ends is told when it begins.
        late = queue.expired(max(now, store.paused_until))
        if late is not None:
            eta = store.eta(late.costs, queue.ahead(late.lane), now)
            late.error = self._too_late(eta, late.until - now, late.costs)
            return late
        head = queue.head()
        if head is None:
            self._wake_timer.cancel()
            return None
        wait = store.admit(head.costs, now, credit=JITTER_CREDIT)
        if not wait:
            queue.grant(head)
            head.granted = True
            return head
        # Debts come while it waits.
        if head.until < math.inf and now + store.wait(head.costs, now) > head.until:
            queue.remove(head)
            head.error = self._too_late(store.wait(head.costs, now), head.until - now, head.costs)
            return head
        self._set_timer(head, now + wait, now)
        return None

    def _set_timer(self, head: Waiter, due: float, now: float) -> None:
        """Have somebody look when the head is due or a time runs out, whichever comes first."""
        self._time(head, min(due, self.queue.next_expiry()), now)

    def _time(self, head: Waiter, at: float, now: float) -> None:
        self._head_at = at
        if head.parker.mailbox is None:
            self._wake_timer.cancel()
            head.check_at = self._head_at
            head.parker.wake()
        elif self._head_at == math.inf:
            self._wake_timer.cancel()
        else:
            self._wake_timer.set(head.parker.mailbox, self._head_at - now)

    def _changed(self) -> None:
        self._look_soon()
        self._tell()

    def _tell(self) -> None:
        """Tell whoever else has to know that something was asked for, given back or changed."""

    def _look_soon(self) -> None:
        """Have the head looked at: a slot came back, or its instant has come nearer."""
        with self.lock:
            head = self.queue.head()
            self._head_at = math.inf if head is None else min(self._head_at, self.now())
            if head is None:
                self._wake_timer.cancel()
            elif head.parker.mailbox is not None:
                head.parker.mailbox.post(self._tick)
            else:
                head.check_at = -math.inf
                head.parker.wake()

    def _retime(self) -> None:
        head = self.queue.head()
        if head is not None:
            due = self.store.due(head.costs)
            if due < self._head_at - _WORTH_WAKING:
                self._set_timer(head, due, self.now())

    def _too_late(self, wait: float, patience: float, costs: Amounts) -> LimitTimeout:
        """Return the error of a wait that cannot end in time."""
        store, now = self.store, self.now()
        paused, window = store.paused_for(now), store.in_the_way(costs, now)
        why = f"would let this through in {wait:.3g} s"
        if store.full:
            why = f"had no slot free in time ({store.held} of {store.size} held)"
        elif store.half_open.out:
            why = "waits for the first call after a pause to be answered"
        seen = f"it is paused for {paused:.3g} s" if paused else f"{self.queue.waiting} wait for it"
        if window:
            seen += f"; {window} is used up"
        return LimitTimeout(
            f"limit {self.name!r} {why}, and the caller waits no longer than {max(0.0, patience):.3g} s "
            f"({seen}). Nothing was taken. Wait longer, send less, or raise the limit.",
            retry_after=max(wait, SLOT_RETRY if store.full else 1e-9),
            window=window,
        )

    def after_fork(self) -> None:
        """Forget, in a forked child, those who wait in threads that exist only in the parent.

        Switches: never.
        """
        self.lock._at_fork_reinit()  # type: ignore[attr-defined] # as threading does with its own
        here = hub_here()
        stay = [waiter for waiter in self.queue if waiter.parker.hub is here]
        self.queue = Queue(len(self.store.rules.rules))
        for waiter in stay:
            self._join(waiter)
        self.store.forget_slots()
        self._wake_timer = WakeTimer(self._tick)
        self._look_soon()
