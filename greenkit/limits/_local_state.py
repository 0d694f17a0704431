"""What is left of a budget in this process: rules, pace, pause and slots, without lock or queue.

A rule takes a state and a time; a store holds the state. The budget has its lock around every call here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from greenkit._aimd import CUT_INTERVAL, AdaptiveSize, Pace
from greenkit.limits._half_open import HalfOpen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit.limits._gcra import Amounts, Rules

__all__ = ["LocalState"]

# The shortest answer to "how long", so that a refusal is never taken for a grant.
_AT_ONCE = 1e-9
# How often one who waits for a window by the calendar looks at the clock.
_LOOK_AGAIN = 60.0


class LocalState:
    """Keep what is out, and book what may go.

    Args:
        rules: The dimensions, as configured.
        slots: How many may be out at once: a number, a `AdaptiveSize` that finds it, or None for any.

    Attributes:
        rules: In force now, the pace included.
        tats: Their state.
        slots: As given.
        held: Slots out; 0 when they are not counted.
        paused_until: Clock reading.
        granted: Costs booked so far.
        half_open: Holds back all but the first after a pause the server asked for.
    """

    __slots__ = (
        "_base",
        "_pace",
        "granted",
        "half_open",
        "held",
        "paused_until",
        "rules",
        "slots",
        "tats",
    )

    def __init__(self, rules: Rules, slots: int | AdaptiveSize | None) -> None:
        self._base = self.rules = rules
        self._pace = Pace()
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
            self._follow_pace(now)  # nobody may ask any more, and it would never be back at full speed
        waits_for_probe = self.half_open.matters(now, self.paused_until)
        return not (self.held or self._pace.matters(now) or now < self.paused_until or waits_for_probe)

    def admit(self, costs: Amounts, now: float, *, credit: float) -> float:
        """Book `costs` if they may go now; else return the seconds until then, `inf` when unknown."""
        if self._pace.factor < 1.0 and self._pace.recover(now):
            self._follow_pace(now)
        size = self.size
        if size is not None and self.held >= size:
            return math.inf
        blocked = self.half_open.blocked(now)
        if now >= self.paused_until and not blocked:
            tats = self.rules.decide(self.tats, costs, now, credit=credit)
            if tats is not None:
                self.tats = tats
                self.half_open.sent(now)
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
            return min(self.instant(costs), self.rules.rules[0].clock.now() + _LOOK_AGAIN)
        return max(self.instant(costs), self.half_open.until if self.half_open.out else -math.inf)

    def pause(self, seconds: float, now: float, *, asked: bool) -> None:
        """Grant nothing for `seconds`; never shortens a pause in force.

        Args:
            seconds: From now.
            now: Clock reading.
            asked: The server asked for it, so one permit goes first when it is over.
        """
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
        if self._pace.cut(now):
            self._follow_pace(now)

    def limit_to(self, available: Mapping[str, float], now: float) -> bool:
        """Let no more than `available` units go now, by rule; tell whether that is less."""
        before, self.tats = self.tats, self.rules.limited_to(self.tats, available, now)
        return before != self.tats

    def ceil(self, shares: Mapping[str, float], now: float) -> bool:
        """Use no more than these shares of the configured rates, by rule; tell whether that is new."""
        changed = self._pace.ceil(shares, now)
        if changed:
            self._follow_pace(now)
        return changed

    def configure(self, rules: Rules, slots: int | AdaptiveSize | None, now: float) -> None:
        """Go on under other rules of the same dimensions; what is out stays out."""
        self._base = rules
        self.slots = slots
        self._follow_pace(now)

    def available(self, now: float) -> dict[str, float]:
        """Return how many units could go now, by rule."""
        pairs = zip(self.rules.rules, self.tats, strict=True)
        return {rule.name: rule.available(tat, now) for rule, tat in pairs}

    def in_the_way(self, costs: Amounts, now: float) -> str:
        """Return the window that lets `costs` go last, as people wrote it; empty when none holds them back.
        """
        rule = None if now < self.paused_until else self.rules.blocking(self.tats, costs, now)
        return "" if rule is None else f"{rule.dimension} {rule.rate}"

    def forget_slots(self) -> None:
        """Count every slot as free: a forked process has them all to itself. A probe is the parent's."""
        self.held = 0
        self.half_open.answered(self.half_open.number, passed=False)

    def _follow_pace(self, now: float) -> None:
        """Make the rules those of the pace; the state keeps its units."""
        rules = self._base
        if self._pace.slower:
            # A pace is for rates; what is left of a day is not less because the server was busy.
            shares = [self._pace.of(one.name, by_calendar=one.window is not None) for one in rules.rules]
            rules = rules.like([one.paced(share) for one, share in zip(rules.rules, shares, strict=True)])
        self.tats = rules.taken_over(self.tats, self.rules, now)
        self.rules = rules
