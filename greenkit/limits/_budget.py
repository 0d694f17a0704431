"""One budget for everybody in the process: a store, its lock, and the line of those who wait.

Whoever finds the budget open and nobody waiting takes it and never meets the hub. Everybody else
stands in line. Only the *head* is timed: an alarm in its hub goes off at its instant (or when the
first in line runs out of time), books its cost and wakes it. So there is one timer however many wait,
nobody overtakes, a pause re-times one sleeper, and those who are killed have booked nothing.

A grant is on its way from the moment it is booked until its greenlet runs; one that dies in between
gives it back.
"""

from __future__ import annotations

import math
from _thread import RLock  # native also after patching; never held across a switch
from time import monotonic
from typing import TYPE_CHECKING

from greenkit.errors import LimitTimeout
from greenkit.limits._alarm import Alarm
from greenkit.limits._bell import bell_here, hub_here, run_in
from greenkit.limits._fork import after_fork
from greenkit.limits._line import NORMAL, Line, Waiter
from greenkit.limits._rules import JITTER_CREDIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit._clock import Clock
    from greenkit.limits._pace import Crowd
    from greenkit.limits._rules import Amounts, Rules
    from greenkit.limits._store import LocalStore

__all__ = ["Budget"]

# A head re-timed for less than this would cost more than it gains.
_WORTH_WAKING = 0.001
# When only a slot is missing nobody knows when one comes back; callers still need a number.
_SLOT_RETRY = 0.1
# Woken greenlets run one after the other in the alarm's call; then the loop has its turn, or
# whoever else lives in this hub would stand still until the last of a thousand has run.
_WAKING_TIME = 0.005


class Budget:
    """Grant costs and slots, at once or in order.

    Safe from several native threads and after `fork`.

    Args:
        store: What is left.
        clock: Where `now` comes from.
        name: Shown in errors.

    Attributes:
        store: As given; to be read, and changed only through here.
        line: Who waits.
        lock: Around all of it; native, never held across a switch.
        now: The clock's.
        shut: Granting takes the lock, and more than arithmetic: somebody waits, slots, a pause, a slower
            pace. Whoever is about to change what is left shuts it first, or who takes without the lock
            (`_fast`) might do so in between; the next grant opens it again where it may.
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_head_at",
        "line",
        "lock",
        "name",
        "now",
        "shut",
        "store",
    )

    def __init__(self, store: LocalStore, *, clock: Clock, name: str) -> None:
        self.name = name
        self.store = store
        self.now = clock.now
        # Re-entrant, because the collector may end a forgotten permit while this thread is inside.
        self.lock = RLock()
        self.line = Line(len(store.rules.rules))
        self._alarm = Alarm(self._tick)
        self._head_at = math.inf
        self.shut = store.must_look(self.now())
        after_fork(self)

    # -- asking ------------------------------------------------------------------------------------

    def take_nowait(self, costs: Amounts) -> float:
        """Take `costs` if nobody waits and all of it may go now.

        Returns:
            0.0 when taken, else the seconds after which it would pass as things stand.

        Switches: never.
        """
        with self.lock:
            self.shut = True
            now = self.now()
            store = self.store
            if not self.line.waiting and not store.admit(costs, now, credit=0.0):
                self.shut = store.must_look(now)
                return 0.0
            eta = store.eta(costs, self.line.ahead(NORMAL), now)
            return max(eta, _SLOT_RETRY if store.full else 1e-9)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """Take `costs` when their turn and their instant have come.

        Args:
            costs: By dimension, in the order of the rules.
            lane: Number of the priority.
            until: Clock reading after which waiting makes no sense; `inf` for never.

        Raises:
            LimitTimeout: It cannot be granted in time, which is said as soon as it is known.

        Switches: may.
        """
        with self.lock:
            self.shut = True
            now = self.now()
            # It may have come back since the caller looked, and nobody would look again.
            if not self.line.waiting and not self.store.admit(costs, now, credit=0.0):
                return
            eta = self.store.eta(costs, self.line.ahead(lane), now)
            if until <= now or now + eta > until:
                raise self._too_late(eta, until - now)
            waiter = Waiter(costs, lane=lane, until=until, bell=bell_here())
            self.line.add(waiter)
            if self.line.head() is waiter or until < self._head_at:
                self._set_alarm(now)
            self._tell()
        try:
            self._sleep(waiter)
        except BaseException:
            self._quit(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error

    def eta(self, costs: Amounts, *, lane: int = NORMAL) -> float:
        """Return the seconds until `costs` would be granted, behind all who wait now.

        Switches: never.
        """
        with self.lock:
            return self.store.eta(costs, self.line.ahead(lane), self.now())

    # -- giving back, and changing -----------------------------------------------------------------

    def settle(self, before: Amounts, costs: Mapping[str, float]) -> Amounts:
        """Correct what `before` cost to `costs`, by name; return the costs after.

        Switches: never.
        """
        with self.lock:
            self.shut = True
            after = self.store.settle(before, costs, self.now())
            if self.line.waiting:
                self._retime()
            self._tell()
            return after

    def give_back_slot(self) -> None:
        """Let the next have the slot of a call that ended, where slots are counted.

        Switches: never.
        """
        if self.store.slots is not None:
            with self.lock:
                self.store.give_back_slot()
                self._look_soon()
                self._tell()

    def heard(self, *, error: bool) -> None:
        """Learn how many at once the server likes; `error` when it was too busy.

        Switches: never.
        """
        with self.lock:
            if self.store.heard(self.now(), error=error):
                self._look_soon()

    def pause(self, seconds: float) -> None:
        """Grant nothing for `seconds` from now; never shortens a pause in force.

        Switches: never.
        """
        with self.lock:
            self.shut = True
            self.store.pause(seconds, self.now())
            self._changed()

    def resume(self) -> None:
        """End the pause in force.

        Switches: never.
        """
        with self.lock:
            self.store.resume()
            self._changed()

    def slow_down(self, pause: float) -> None:
        """Grant nothing for `pause` seconds, and use less of the rate for a while, after a 429.

        Switches: never.
        """
        with self.lock:
            self.shut = True
            self.store.slow_down(self.now())
            self.pause(pause)

    def learn(self, available: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """Let no more than `available` go now, and use at most these `shares` of the rates.

        Switches: never.
        """
        with self.lock:
            self.shut = True
            now = self.now()
            # Most answers of a server tell nothing new, and those cost no look at the line.
            if self.store.ceil(shares, now) | self.store.limit_to(available, now):
                self._changed()

    def configure(self, rules: Rules, slots: int | Crowd | None) -> None:
        """Go on under other rules of the same dimensions; what is out stays out.

        Switches: never.
        """
        with self.lock:
            self.shut = True
            self.store.configure(rules, slots, self.now())
            self._changed()

    def available(self) -> dict[str, float]:
        """Return how many units could go now, by dimension.

        Switches: never.
        """
        with self.lock:
            return self.store.available(self.now())

    def view(self) -> Budget:
        """Return what is to be looked at: this.

        Switches: never.
        """
        return self

    def quiet(self) -> bool:
        """Tell whether nothing is to be remembered but the state of the rules.

        Switches: never.
        """
        with self.lock:
            return not self.line.waiting and self.store.quiet(self.now())

    # -- waiting -----------------------------------------------------------------------------------

    def _sleep(self, waiter: Waiter) -> None:
        bell = waiter.bell
        while not waiter.done:
            if bell.hub is not None:
                bell.wait()
                continue
            # No hub, no alarm: this thread looks after the line itself while it is the head.
            bell.wait(None if waiter.alarm == math.inf else waiter.alarm - self.now())
            if not waiter.done and waiter.alarm <= self.now():
                waiter.alarm = math.inf
                self._tick()

    def _quit(self, waiter: Waiter) -> None:
        """Leave the line with empty hands: killed, or timed out by somebody else's timer."""
        with self.lock:
            self.shut = True
            first = waiter.granted or self.line.head() is waiter
            if waiter.granted:
                self.store.take_back(waiter.costs, self.now())
            else:
                self.line.remove(waiter)
            if first:
                self._look_soon()
            self._tell()

    def _tick(self) -> None:
        """Wake whoever is due; the alarm's call, in the hub of the head, or in its thread."""
        begin = monotonic()
        while True:
            with self.lock:
                waiter = self._next(self.now())
            if waiter is None:
                return
            try:
                waiter.bell.rouse()
            except BaseException:
                self._look_soon()  # Ctrl-C in one of them is not the end of the others
                raise
            if monotonic() - begin > _WAKING_TIME:
                self._look_soon()
                return

    # The lock is held in all that follows.

    def _next(self, now: float) -> Waiter | None:
        """Return one who need not wait any more, or set the alarm."""
        # Whose time is over before a pause ends is told when it begins.
        late = self.line.expired(max(now, self.store.paused_until))
        if late is not None:
            eta = self.store.eta(late.costs, self.line.ahead(late.lane), now)
            late.error = self._too_late(eta, late.until - now)
            return late
        head = self.line.head()
        if head is None:
            self._alarm.cancel()
            self.shut = self.store.must_look(now)
            return None
        if not self.store.admit(head.costs, now, credit=JITTER_CREDIT):
            self.line.grant(head)
            head.granted = True
            return head
        head.error = self._impossible(head, now)
        if head.error is None:
            self._set_alarm(now)
            return None
        self.line.remove(head)
        return head

    def _impossible(self, head: Waiter, now: float) -> Exception | None:
        """Return why no wait can help the head: debts and new settings come while it waits."""
        wait = self.store.wait(head.costs, now)
        if now + wait > head.until:
            return self._too_late(wait, head.until - now)
        return self.store.too_high(head.costs)

    def _set_alarm(self, now: float) -> None:
        """Have somebody look when the head is due or a time runs out, whichever comes first."""
        head = self.line.head()
        if head is None:
            return
        self._time(head, min(self.store.due(head.costs), self.line.next_expiry()), now)

    def _time(self, head: Waiter, at: float, now: float) -> None:
        self._head_at = at
        if head.bell.hub is None:
            self._alarm.cancel()
            head.alarm = self._head_at
            head.bell.ring()
        elif self._head_at == math.inf:
            self._alarm.cancel()
        else:
            self._alarm.set(head.bell.hub, self._head_at - now)

    def _changed(self) -> None:
        self._look_soon()
        self._tell()

    def _tell(self) -> None:
        """Tell whoever else has to know that something was asked for, given back or changed."""

    def _look_soon(self) -> None:
        """Have the head looked at: a slot came back, or its instant has come nearer."""
        with self.lock:
            head = self.line.head()
            if head is None:
                self._alarm.cancel()
            elif head.bell.hub is not None:
                run_in(head.bell.hub, self._tick)
            else:
                head.alarm = -math.inf
                head.bell.ring()

    def _retime(self) -> None:
        head = self.line.head()
        if head is not None and self.store.due(head.costs) < self._head_at - _WORTH_WAKING:
            self._set_alarm(self.now())

    def _too_late(self, wait: float, patience: float) -> LimitTimeout:
        """Return the error of a wait that cannot end in time."""
        store, paused = self.store, self.store.paused_for(self.now())
        why = f"would let this through in {wait:.3g} s"
        if store.full:
            why = f"had no slot free in time ({store.held} of {store.size} held)"
        seen = f"it is paused for {paused:.3g} s" if paused else f"{self.line.waiting} wait for it"
        return LimitTimeout(
            f"limit {self.name!r} {why}, and the caller waits no longer than {max(0.0, patience):.3g} s "
            f"({seen}). Nothing was taken. Wait longer, send less, or raise the limit.",
            retry_after=max(wait, _SLOT_RETRY if store.full else 1e-9),
        )

    def after_fork(self) -> None:
        """Forget, in a forked child, those who wait in threads that exist only in the parent.

        Switches: never.
        """
        self.lock._at_fork_reinit()  # type: ignore[attr-defined] # as threading does with its own
        here = hub_here()
        stay = [waiter for waiter in self.line if waiter.bell.hub is here]
        self.line = Line(len(self.store.rules.rules))
        for waiter in stay:
            self.line.add(waiter)
        self.store.forget_slots()
        self._alarm = Alarm(self._tick)
        self._look_soon()
