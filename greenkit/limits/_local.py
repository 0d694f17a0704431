"""One budget for all in the process: what can be asked of it, given back and changed, and who waits for it.

Whoever finds the budget open and nobody waiting takes it and never meets the hub. Everybody else waits in the
queue, of which only the *head* is timed: a timer in its hub goes off at its instant (or when the first in the
queue runs out of time), books its cost and wakes it. So there is one timer however many wait, nobody
overtakes, a pause re-times one sleeper, and those who are killed have booked nothing.

A grant is on its way from the moment it is booked until its greenlet runs; one that dies in between
gives it back.
"""

from __future__ import annotations

import math
import os
import weakref
from _thread import RLock  # native also after patching; never held across a switch
from typing import TYPE_CHECKING, Any, Protocol

from greenkit.errors import LimitTimeout
from greenkit.limits._gcra import JITTER_CREDIT
from greenkit.limits._queue import NORMAL, Queue, Waiter, WakeTimer, parker_here
from greenkit.wait import hub_here

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit._aimd import AdaptiveSize
    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._local_state import LocalState

__all__ = ["SLOT_RETRY", "Forkable", "LocalBudget", "after_fork"]

# A head re-timed for less than this would cost more than it gains.
_WORTH_WAKING = 0.001
# When only a slot is missing nobody knows when one comes back; callers still need a number.
SLOT_RETRY = 0.1
# In a queue of several hubs each waiter looks so often whether the head is overdue: its hub may be busy, or
# its thread blocked in native code, and nobody behind it would be let through until then.
_OVERDUE = 0.25


class LocalBudget:
    """Grant costs and slots, at once or in order.

    Safe from several native threads and after `fork`.

    Args:
        state: What is left.
        clock: Where `now` comes from.
        name: Shown in errors.

    Attributes:
        state: As given; to be changed only by who has the lock.
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
        "state",
    )

    def __init__(self, state: LocalState, *, clock: Clock, name: str) -> None:
        self.name = name
        self.state = state
        self.now = clock.now
        # Re-entrant, because the collector may end a forgotten permit while this thread is inside.
        self.lock = RLock()
        self.queue = Queue(len(state.rules.rules))
        self._wake_timer = WakeTimer(self._tick)
        self._head_at = math.inf
        # Of who waits: their hub (None: threads without one), and whether there are several.
        self._hub: Any = None
        self._mixed = False
        after_fork(self)

    # -- asking ------------------------------------------------------------------------------------

    def take_nowait(self, costs: Amounts) -> float:
        """Take `costs` if nobody waits and all of it may go now.

        Returns:
            0.0 when taken, else the seconds after which it would pass as things stand.
        """
        with self.lock:
            now = self.now()
            state = self.state
            if not self.queue.waiting and not state.admit(costs, now, credit=0.0):
                return 0.0
            eta = state.eta(costs, self.queue.ahead(NORMAL), now)
            return max(eta, SLOT_RETRY if state.full or state.half_open.out else 1e-9)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """Take `costs` when their turn and their instant have come.

        Args:
            costs: By dimension, in the order of the rules.
            lane: Number of the priority.
            until: Clock reading after which waiting makes no sense; `inf` for never.

        Raises:
            LimitTimeout: It cannot be granted in time, which is said as soon as it is known.
        """
        with self.lock:
            now = self.now()
            queue, state = self.queue, self.state
            # It may have come back since the caller looked, and nobody would look again.
            if not queue.waiting and not state.admit(costs, now, credit=0.0):
                return
            if until < math.inf:
                eta = state.eta(costs, queue.ahead(lane), now)
                if until <= now or now + eta > until:
                    raise self._too_late(eta, until - now, costs)
            waiter = Waiter(costs, lane=lane, until=until, parker=parker_here())
            self._join(waiter)
            head = queue.head() or waiter
            if head is waiter or until < self._head_at:
                self._set_timer(head, state.due(head.costs), now)
            self._tell()
        try:
            self._sleep(waiter)
        except BaseException:
            self._quit(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error

    def eta(self, costs: Amounts, *, lane: int = NORMAL) -> float:
        """Return the seconds until `costs` would be granted, behind all who wait now."""
        with self.lock:
            return self.state.eta(costs, self.queue.ahead(lane), self.now())

    # -- giving back, and changing -----------------------------------------------------------------

    def settle(self, before: Amounts, costs: Mapping[str, float]) -> Amounts:
        """Correct what `before` cost to `costs`, by name; return the costs after."""
        with self.lock:
            after = self.state.settle(before, costs, self.now())
            if self.queue.waiting:
                self._retime()
            self._tell()
            return after

    def take_back(self, costs: Amounts) -> None:
        """Undo a `take()` of which nothing was used, its slot included."""
        with self.lock:
            self.state.take_back(costs, self.now())
            self._changed()

    def give_back_slot(self) -> None:
        """Let the next have the slot of a call that ended, where slots are counted."""
        if self.state.slots is not None:
            with self.lock:
                self.state.give_back_slot()
                self._look_soon()
                self._tell()

    def heard(self, *, error: bool) -> None:
        """Learn how many at once the server likes; `error` when it was too busy."""
        with self.lock:
            if self.state.heard(self.now(), error=error):
                self._look_soon()

    def pause(self, seconds: float, *, asked: bool = False) -> None:
        """Grant nothing for `seconds` from now; never shortens a pause in force.

        Args:
            seconds: From now.
            asked: The server asked for it: one permit goes first when it is over.
        """
        with self.lock:
            self.state.pause(seconds, self.now(), asked=asked)
            self._changed()

    def probe(self) -> int:
        """Return the number of the pause after which a permit granted now goes first, or 0."""
        return self.state.half_open.number

    def probe_answered(self, number: int, *, passed: bool) -> None:
        """Hear how a permit ended that went first after pause `number`: the rest follow, or another goes."""
        with self.lock:
            if self.state.probe_answered(number, self.now(), passed=passed):
                self._changed()

    def resume(self) -> None:
        """End the pause in force."""
        with self.lock:
            self.state.resume()
            self._changed()

    def slow_down(self, pause: float) -> None:
        """Grant nothing for `pause` seconds, and use less of the rate for a while, after a 429."""
        with self.lock:
            self.state.slow_down(self.now())
            self.pause(pause, asked=True)

    def learn(self, available: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """Let no more than `available` go now, and use at most these `shares` of the rates."""
        with self.lock:
            now = self.now()
            # Most answers of a server tell nothing new, and those cost no look at the queue.
            if self.state.ceil(shares, now) | self.state.limit_to(available, now):
                self._changed()

    def configure(self, rules: Rules, slots: int | AdaptiveSize | None) -> None:
        """Go on under other rules of the same dimensions; what is out stays out."""
        with self.lock:
            self.state.configure(rules, slots, self.now())
            for waiter in list(self.queue):
                waiter.error = self.state.too_high(waiter.costs)
                if waiter.error is not None:
                    self.queue.remove(waiter)
                    waiter.parker.wake()
            self._changed()

    def available(self) -> dict[str, float]:
        """Return how many units could go now, by rule."""
        with self.lock:
            return self.state.available(self.now())

    def view(self) -> LocalBudget:
        """Return what is to be looked at: this."""
        return self

    def quiet(self) -> bool:
        """Tell whether nothing is to be remembered but the state of the rules."""
        with self.lock:
            return not self.queue.waiting and self.state.quiet(self.now())

    def after_fork(self) -> None:
        """Forget, in a forked child, those who wait in threads that exist only in the parent."""
        self.lock._at_fork_reinit()  # type: ignore[attr-defined] # as threading does with its own
        here = hub_here()
        stay = [waiter for waiter in self.queue if waiter.parker.hub is here]
        self.queue = Queue(len(self.state.rules.rules))
        for waiter in stay:
            self._join(waiter)
        self.state.forget_slots()
        self._wake_timer = WakeTimer(self._tick)
        self._look_soon()

    # -- waiting --------------------------------------------------------------------------------

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
                self.state.take_back(waiter.costs, self.now())
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
        queue, state = self.queue, self.state
        # Whose time is over before a pause ends is told when it begins.
        late = queue.expired(max(now, state.paused_until))
        if late is not None:
            eta = state.eta(late.costs, queue.ahead(late.lane), now)
            late.error = self._too_late(eta, late.until - now, late.costs)
            return late
        head = queue.head()
        if head is None:
            self._wake_timer.cancel()
            return None
        wait = state.admit(head.costs, now, credit=JITTER_CREDIT)
        if not wait:
            queue.grant(head)
            head.granted = True
            return head
        # Debts come while it waits.
        if head.until < math.inf and now + state.wait(head.costs, now) > head.until:
            queue.remove(head)
            head.error = self._too_late(state.wait(head.costs, now), head.until - now, head.costs)
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
            due = self.state.due(head.costs)
            if due < self._head_at - _WORTH_WAKING:
                self._set_timer(head, due, self.now())

    def _too_late(self, wait: float, patience: float, costs: Amounts) -> LimitTimeout:
        """Return the error of a wait that cannot end in time."""
        state, now = self.state, self.now()
        paused, window = state.paused_for(now), state.in_the_way(costs, now)
        why = f"would let this through in {wait:.3g} s"
        if state.full:
            why = f"had no slot free in time ({state.held} of {state.size} held)"
        elif state.half_open.out:
            why = "waits for the first call after a pause to be answered"
        seen = f"it is paused for {paused:.3g} s" if paused else f"{self.queue.waiting} wait for it"
        if window:
            seen += f"; {window} is used up"
        return LimitTimeout(
            f"limit {self.name!r} {why}, and the caller waits no longer than {max(0.0, patience):.3g} s "
            f"({seen}). Nothing was taken. Wait longer, send less, or raise the limit.",
            retry_after=max(wait, SLOT_RETRY if state.full else 1e-9),
            window=window,
        )


class Forkable(Protocol):
    """Know what to forget in a child."""

    def after_fork(self) -> None:
        """Forget the threads of the parent."""


def after_fork(thing: Forkable, /) -> None:
    """Have `thing.after_fork()` called in every child forked while it lives."""
    _things.add(thing)


def _tell() -> None:
    for thing in list(_things):
        thing.after_fork()


_things: weakref.WeakSet[Forkable] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell)
