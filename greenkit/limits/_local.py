"""Hold one budget for all of the process: what is left of it, who waits for it, and how it is given back.

A caller that finds the budget open and the queue empty takes its cost and never meets the hub. Everybody else
waits in the queue, of which only the *head* is timed: a timer in its hub goes off at its instant (or when the
first in the queue runs out of time), books its cost and wakes it. So there is one timer however many wait,
nobody overtakes, a pause re-times one sleeper, and a waiter that is killed has booked nothing.

A grant is on its way from the moment it is booked until its greenlet runs; a greenlet that dies in between
gives it back.
"""

from __future__ import annotations

import math
from _thread import RLock  # native also after patching; never held across a switch
from typing import TYPE_CHECKING, Any

from greenkit._aimd import CUT_INTERVAL, AdaptiveSize, Pace
from greenkit.errors import LimitTimeout
from greenkit.limits._gcra import JITTER_CREDIT, HalfOpen
from greenkit.limits._queue import NORMAL, Queue, Waiter, WakeTimer, after_fork, parker_here
from greenkit.wait import hub_here

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts, Rules

__all__ = ["SLOT_RETRY", "LocalBudget", "LocalState"]

# The shortest answer to "how long", so that a refusal is never taken for a grant.
_AT_ONCE = 1e-9
# Shared until a server slows this budget down, which for most keys never happens.
_FULL_PACE = Pace()
# How often one who waits for a window by the calendar looks at the clock.
_CLOCK_CHECK = 60.0


class LocalState:
    """Keep what is out, and book what may go.

    A rule takes a state and a time; the store holds the state. The budget has its lock around every call.

    Attributes:
        rules: In force now, the pace included.
        tats: Their state.
        slots: How many may be out at once: a number, a `AdaptiveSize` that finds it, or None for any.
        held: Slots out; 0 when they are not counted.
        paused_until: Clock reading.
        granted: Costs booked so far.
        half_open: Holds back all but the first after a pause the server asked for.
    """

    __slots__ = (
        "_pace",
        "base",
        "granted",
        "half_open",
        "held",
        "paused_until",
        "rules",
        "slots",
        "tats",
    )

    def __init__(self, rules: Rules, slots: int | AdaptiveSize | None) -> None:
        self.base = self.rules = rules
        self._pace = _FULL_PACE
        self.tats = rules.start()
        self.slots = slots
        self.paused_until = -math.inf
        self.half_open = HalfOpen()
        self.held = self.granted = 0

    @property
    def mode(self) -> str:
        """Return where the budget is: "local"."""
        return "local"

    @property
    def size(self) -> int | None:
        """Return how many may be out at once now, or None for any."""
        return self.slots.size if isinstance(self.slots, AdaptiveSize) else self.slots

    @property
    def full(self) -> bool:
        """Tell whether every slot is out."""
        size = self.size
        return size is not None and self.held >= size

    @property
    def factor(self) -> float:
        """Return which share of the configured rate is used now."""
        return self._pace.factor

    def quiet(self, now: float) -> bool:
        """Tell whether the state of the rules is all there is to remember."""
        if self._pace.factor < 1.0 and self._pace.recover(now):
            self._follow_pace(now)  # without a caller nothing else brings it back to full speed
        probe = self.half_open.number and self.half_open.matters(now, self.paused_until)
        if self.held or now < self.paused_until or probe:
            return False
        return self._pace is _FULL_PACE or not self._pace.matters(now)

    def admit(self, costs: Amounts, now: float, *, credit: float) -> float:
        """Book `costs` if they may go now; else return the seconds until then, `inf` when unknown."""
        if self._pace.factor < 1.0 and self._pace.recover(now):
            self._follow_pace(now)
        size = self.size
        if size is not None and self.held >= size:
            return math.inf
        half_open = self.half_open
        blocked = half_open.blocked(now) if half_open.number else 0.0
        if now >= self.paused_until and not blocked:
            tats = self.rules.decide(self.tats, costs, now, credit=credit)
            if tats is not None:
                self.tats = tats
                if half_open.number:
                    half_open.sent(now)
                self.held += size is not None
                self.granted += 1
                return 0.0
        return max(self.instant(costs) - now, blocked, _AT_ONCE)

    def take_back(self, costs: Amounts, now: float) -> None:
        """Undo a booking nobody has used."""
        unused = dict.fromkeys(self.rules.dimensions, 0.0)
        self.tats, _ = self.rules.settle(self.tats, costs, unused, now)
        self.half_open.answered(self.half_open.number, passed=False)  # it may have been the probe
        self.give_back_slot()
        self.granted -= 1

    def give_back_slot(self) -> None:
        """Count a slot as free."""
        self.held = max(0, self.held - 1)  # a fork may have forgotten it

    def due(self, costs: Amounts) -> float:
        """Return from when the head may go, as far as is known now; `inf` while a slot is missing."""
        if self.full:
            return math.inf
        # The clock on the wall may be set while it waits for the next day: it looks again now and then.
        if self.rules.calendars and not self.half_open.out:
            return min(self.instant(costs), self.rules.rules[0].clock.now() + _CLOCK_CHECK)
        return max(self.instant(costs), self.half_open.until if self.half_open.out else -math.inf)

    def pause(self, seconds: float, now: float, *, asked: bool) -> None:
        """Grant nothing for `seconds`; `asked` by the server, one permit goes first when it is over."""
        self.paused_until = max(self.paused_until, now + seconds)
        if asked:
            self.half_open.begin()

    def probe_answered(self, number: int, now: float, *, passed: bool) -> bool:
        """Hear how the first call after pause `number` ended; tell whether that lets another go."""
        return self.half_open.answered(number, passed=passed)

    def resume(self) -> None:
        """End the pause in force."""
        self.paused_until = -math.inf
        self.half_open.open()

    def paused_for(self, now: float) -> float:
        """Return the seconds the pause in force still lasts."""
        return max(0.0, self.paused_until - now)

    def instant(self, costs: Amounts) -> float:
        """Return from when `costs` may go, were nobody ahead and a slot free."""
        return max(self.paused_until, self.rules.earliest(self.tats, costs))

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until `costs` may go behind `ahead`, as far as the rate goes."""
        start = max(now, self.paused_until)
        return max(start, self.rules.earliest(self.rules.behind(self.tats, ahead, start), costs)) - now

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the seconds the head still has to wait at the least, as far as is known."""
        return self.instant(costs) - now

    def too_high(self, costs: Amounts) -> Exception | None:
        """Return the error for costs no wait can help, or None."""
        return self.rules.too_high(costs)

    def settle(self, before: Amounts, costs: Mapping[str, float], now: float) -> Amounts:
        """Correct what `before` cost to `costs`, by name; return the costs after."""
        self.tats, after = self.rules.settle(self.tats, before, costs, now)
        return after

    def heard(self, now: float, *, error: bool) -> bool:
        """Learn how many at once the server likes; tell whether that changed."""
        if not isinstance(self.slots, AdaptiveSize):
            return False
        if error:  # once a second: one burst of refusals is one piece of news
            return self.slots.failed(began=now - CUT_INTERVAL, now=now)
        return self.slots.succeeded(full=self.held >= self.slots.size)

    def slow_down(self, now: float) -> None:
        """Use less of the rate for a while, after a 429."""
        if self._own_pace().cut(now):
            self._follow_pace(now)

    def limit_to(self, available: Mapping[str, float], now: float) -> bool:
        """Let no more than `available` units go now, by rule; tell whether that is less."""
        before, self.tats = self.tats, self.rules.limited_to(self.tats, available, now)
        return before != self.tats

    def ceil(self, shares: Mapping[str, float], now: float) -> bool:
        """Use no more than these shares of the configured rates, by rule; tell whether that is new."""
        changed = self._own_pace().ceil(shares, now)
        if changed:
            self._follow_pace(now)
        return changed

    def configure(self, rules: Rules, slots: int | AdaptiveSize | None, now: float) -> None:
        """Go on under other rules of the same dimensions; what is out stays out."""
        self.base = rules
        self.slots = slots
        self._follow_pace(now)

    def available(self, now: float) -> dict[str, float]:
        """Return how many units could go now, by rule."""
        pairs = zip(self.rules.rules, self.tats, strict=True)
        return {rule.name: rule.available(tat, now) for rule, tat in pairs}

    def in_the_way(self, costs: Amounts, now: float) -> str:
        """Return the window that lets `costs` go last, as configured; empty when none does."""
        rule = None if now < self.paused_until else self.rules.blocking(self.tats, costs, now)
        return "" if rule is None else f"{rule.dimension} {rule.rate}"

    def forget_slots(self) -> None:
        """Count every slot as free: a forked process has them all to itself. A probe is the parent's."""
        self.held = 0
        self.half_open.answered(self.half_open.number, passed=False)

    def _own_pace(self) -> Pace:
        if self._pace is _FULL_PACE:
            self._pace = Pace()
        return self._pace

    def _follow_pace(self, now: float) -> None:
        """Make the rules those of the pace; the state keeps its units."""
        rules = self.base
        if self._pace.slower:
            # A pace is for rates; what is left of a day is not less because the server was busy.
            shares = [self._pace.of(rule.name, by_calendar=rule.window is not None) for rule in rules.rules]
            rules = rules.like([rule.paced(share) for rule, share in zip(rules.rules, shares, strict=True)])
        self.tats = rules.taken_over(self.tats, self.rules, now)
        self.rules = rules


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

    Attributes:
        state: What is left; changed only under the lock.
        queue: Who waits.
        lock: Around all of it; native, never held across a switch.
        now: The clock's.
        name: Shown in errors.
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
        """Take `costs` if nobody waits and all of it may go now; else return anything but 0."""
        with self.lock:
            return 1.0 if self.queue.waiting else self.state.admit(costs, self.now(), credit=0.0)

    def try_take(self, costs: Amounts) -> float:
        """Take `costs` if they may go now, and return 0.0; else the seconds after which they would."""
        with self.lock:
            now = self.now()
            state = self.state
            if not self.queue.waiting and not state.admit(costs, now, credit=0.0):
                return 0.0
            eta = state.eta(costs, self.queue.ahead(NORMAL), now)
            return max(eta, SLOT_RETRY if state.full or state.half_open.out else 1e-9)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """Take `costs` when their turn and their instant have come.

        Raises:
            LimitTimeout: It cannot be granted before the clock reads `until`, said as soon as it is known.
        """
        with self.lock:
            now = self.now()
            queue, state = self.queue, self.state
            # It may have come back since the first attempt, and no timer is set for this caller yet.
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
        """Grant nothing for `seconds`; `asked` by the server, one permit goes first when it is over."""
        with self.lock:
            self.state.pause(seconds, self.now(), asked=asked)
            self._changed()

    def probe(self) -> int:
        """Return the number of the pause after which a permit granted now goes first, or 0."""
        return self.state.half_open.number

    def probe_answered(self, number: int, *, passed: bool) -> None:
        """Record how the probe of pause `number` ended: the rest follow, or another goes first."""
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
        while not (waiter.granted or waiter.error):
            # A thread without a hub has no timer: it checks the queue itself while it is the head.
            seconds = waiter.check_at - self.now() if waiter.check_at < math.inf else math.inf
            if self._mixed:
                seconds = min(seconds, _OVERDUE)
            waiter.parker.park(None if seconds == math.inf else seconds)
            self._look_after_queue(waiter)

    def _look_after_queue(self, waiter: Waiter) -> None:
        now = self.now()
        overdue = self._mixed and self._head_at + _OVERDUE <= now
        if not (waiter.granted or waiter.error) and (overdue or waiter.check_at <= now):
            waiter.check_at = math.inf
            self._tick()

    def _quit(self, waiter: Waiter) -> None:
        """Leave the queue without a grant: the waiter was killed, or another's timer struck."""
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
        """Grant to all waiters that are due, set the timer for the next, and wake them; from any thread.

        Nobody is switched to from here: in a thread that is not patched a woken greenlet runs on
        natively, and whatever was still to be done after the switch would not be done for minutes.
        """
        woken: list[Waiter] = []
        with self.lock:
            try:
                while (waiter := self._next(self.now())) is not None:
                    woken.append(waiter)
            finally:  # wake granted waiters even when Ctrl-C ends the loop
                for waiter in woken:
                    waiter.parker.wake()

    def _join(self, waiter: Waiter) -> None:
        """Put `waiter` in the queue. The lock is held."""
        hub = waiter.parker.hub
        if not self.queue.waiting:
            self._hub, self._mixed = hub, False
        elif hub is not self._hub and not self._mixed:
            self._mixed = True
            for earlier in self.queue:  # from now on each of them checks the queue, too
                earlier.parker.wake()
        self.queue.add(waiter)

    # The lock is held in all that follows.

    def _next(self, now: float) -> Waiter | None:
        """Return one who need not wait any more, or set the timer."""
        queue, state = self.queue, self.state
        # Expire waiters whose deadline falls inside the pause.
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
        """Set the timer for when the head is due or a waiter expires, whichever comes first."""
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
        """Notify the backend, where there is one, that something was asked for, given back or changed."""

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

    def _too_late(self, wait: float, time_left: float, costs: Amounts) -> LimitTimeout:
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
            f"limit {self.name!r} {why}, and the caller waits no longer than {max(0.0, time_left):.3g} s "
            f"({seen}). Nothing was taken. Wait longer, send less, or raise the limit.",
            retry_after=max(wait, SLOT_RETRY if state.full else 1e-9),
            window=window,
        )
