"""What a process may give out of a shared budget, and what it has to tell the store.

The store books slots up to a horizon ahead. Here they become *credit* at their instants, and the head of the
queue takes from it; so a waiter that is killed loses nobody else's slot, and nobody overtakes. What changes
meanwhile is collected in the outbox until the next request.

While the store does not answer, `on_backend_error` decides: one object for each way to go on. They change the
state of the budget they are of, and keep none of their own.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from greenkit.limits._gcra import JITTER_CREDIT, Rule
from greenkit.limits._local import LocalState
from greenkit.limits._rates import Rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from greenkit.limits._gcra import Amounts
    from greenkit.limits._queue import GreenParker, NativeParker, Waiter


__all__ = ["AWAY", "PROBE", "Alone", "Closed", "Online", "Open", "Outbox", "Reservations", "Try"]

# Sums of fractions come out a little short.
_ROUNDING = 1e-9


class Reservations:
    """Hold credit, and bookings that become credit.

    Args:
        dimensions: How many numbers a cost has.
        strict: What was not used within 10 ms of its instant is not to be used at all: later it could
            fall into a window with others.
    """

    __slots__ = ("_bookings", "_credit", "_strict", "_total", "_zero")

    def __init__(self, dimensions: int, *, strict: bool) -> None:
        self._zero = (0.0,) * (dimensions + 1)
        # The last number counts permits: one that costs nothing has to be booked too.
        self._credit: Amounts = self._zero
        self._total: Amounts = self._zero  # credit and bookings
        self._bookings: list[tuple[float, Amounts]] = []
        self._strict = strict

    @property
    def permits(self) -> int:
        """Return how many permits are in hand."""
        return round(self._credit[-1]) + len(self._bookings)

    @property
    def first(self) -> float:
        """Return the instant of the next booking; `inf` when there is none."""
        return self._bookings[0][0] if self._bookings else math.inf

    @property
    def last(self) -> float:
        """Return the instant of the last booking; `-inf` when there is none."""
        return self._bookings[-1][0] if self._bookings else -math.inf

    def instant(self, left: int) -> float:
        """Return from when no more than `left` bookings are still to come; `-inf` when that is so now."""
        return self._bookings[-left - 1][0] if len(self._bookings) > left else -math.inf

    def book(self, instant: float, costs: Amounts) -> None:
        """Put a booking in."""
        amounts = (*costs, 1.0)
        bisect.insort(self._bookings, (instant, amounts))
        self._total = _plus(self._total, amounts)

    def put_back(self, costs: Amounts) -> None:
        """Put back what a waiter took and did not use."""
        amounts = (*costs, 1.0)
        self._credit = _plus(self._credit, amounts)
        self._total = _plus(self._total, amounts)

    def take(self, costs: Amounts) -> bool:
        """Take `costs` out of the credit; tell whether there was enough."""
        amounts = (*costs, 1.0)
        left = _minus(self._credit, amounts)
        if min(left) < -_ROUNDING:
            return False
        self._credit = left
        # Sums of fractions drift; an empty hand is an exact zero.
        self._total = _minus(self._total, amounts) if self._bookings else left
        return True

    def mature(self, now: float) -> Amounts:
        """Make credit of the bookings whose instant has come; return what came too late, per dimension."""
        late = self._zero
        due = 0
        for instant, amounts in self._bookings:
            if instant > now + _ROUNDING:
                break
            due += 1
            if self._strict and now - instant > JITTER_CREDIT:
                late = _plus(late, amounts)
                self._total = _minus(self._total, amounts)
            else:
                self._credit = _plus(self._credit, amounts)
        del self._bookings[:due]
        return late[:-1]

    def empty(self) -> Amounts:
        """Take everything out and return it, per dimension."""
        everything = self._total
        self._credit = self._total = self._zero
        self._bookings.clear()
        return everything[:-1]

    def behind(self, ahead: Amounts) -> Amounts:
        """Return what of the costs `ahead` is not in hand yet."""
        return tuple([max(0.0, units - have) for units, have in zip(ahead, self._total, strict=False)])

    def uncovered(self, queue: Iterable[Waiter], most: int) -> list[Waiter]:
        """Return the waiters, in order and at most so many, for whom nothing is in hand."""
        have = self._total
        found: list[Waiter] = []
        for waiter in queue:
            left = _minus(have, (*waiter.costs, 1.0))
            if min(left) >= -_ROUNDING:
                have = left
            else:
                found.append(waiter)
                if len(found) == most:
                    break
        return found


def _plus(left: Amounts, right: Amounts) -> Amounts:
    return tuple([a + b for a, b in zip(left, right, strict=True)])


def _minus(left: Amounts, right: Amounts) -> Amounts:
    return tuple([a - b for a, b in zip(left, right, strict=True)])


# Seconds that news may wait for company when nobody waits for it.
_GATHER_TIME = 0.05


@dataclass(slots=True)
class Outbox:
    """Collect what changed since the last request; -1 is no news.

    Attributes:
        deltas: Per dimension, units to charge, or when negative to refund.
        left: Per dimension, units that may go now at the most.
        shares: Per dimension, the server's own limit as a share of the configured rate.
        pause: Seconds nobody may go.
        asked: The server asked for the pause.
        probe: Number of the pause whose probe has been heard of, or 0.
        passed: That probe was let in.
        resume: End a pause.
        cut: Slow down after a 429.
        due: Clock reading at which it should be told.
    """

    deltas: Amounts
    left: Amounts
    shares: Amounts
    pause: float = 0.0
    asked: bool = False
    probe: int = 0
    passed: bool = False
    resume: bool = False
    cut: bool = False
    due: float = field(default=math.inf)

    @classmethod
    def empty(cls, dimensions: int) -> Outbox:
        """Return no news."""
        nothing = (-1.0,) * dimensions
        return cls((0.0,) * dimensions, nothing, nothing)

    def charge(self, units: Sequence[float], now: float) -> None:
        """Add units to be charged, or when negative refunded."""
        if any(units):
            self.deltas = tuple([a + b for a, b in zip(self.deltas, units, strict=True)])
            self.soon(now)

    def soon(self, now: float) -> None:
        """Have it told within a twentieth of a second."""
        self.due = min(self.due, now + _GATHER_TIME)

    def at_once(self) -> None:
        """Have it told now."""
        self.due = -math.inf


class Try:
    """One caller that wants a permit now or never.

    Attributes:
        costs: What it asks for.
        parker: Wakes it.
        answer: 0.0 for yes, or the seconds after which it would pass; None while not known.
        left: It does not wait for the answer any more.
    """

    __slots__ = ("answer", "costs", "left", "parker")

    def __init__(self, costs: Amounts, parker: GreenParker | NativeParker) -> None:
        self.costs = costs
        self.parker = parker
        self.answer: float | None = None
        self.left = False


# How often a backend that is away is asked whether it is back.
PROBE = 1.0
# What the store said is good for so long; after that it is asked before anybody is told "too late".
_FRESH = 1.0


class Online:
    """Give out what the store has booked, and tell it everything.

    Args:
        of: The `SharedState` it is of.

    Attributes:
        name: As `statistics().backend` shows it.
        online: The backend answers.
    """

    __slots__ = ("_of",)
    name = "shared"
    online = True

    def __init__(self, of: Any) -> None:
        self._of = of

    def went(self) -> Amounts:
        """Return what went of each window by the calendar without the store, which it has to hear."""
        return (0.0,) * len(self._of.rules.rules)

    def size(self, whole: int) -> int:
        """Return how many of `whole` slots may be out here."""
        return whole

    def full(self) -> bool:
        """Tell whether every slot is out."""
        return bool(self._of.lacks_slots)

    def quiet(self, now: float) -> bool:
        """Tell whether the store knows all there is to know."""
        # Where slots are counted it has to hear that none is held.
        return not (self._of.reported and self._of.slots is not None)

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Take `costs`, or return the seconds until they may go."""
        of = self._of
        if now < of.paused_until:
            return math.inf
        of.outbox.charge([-units for units in of.reserved.mature(now)], now)
        if not of.reserved.take(costs):
            return float(max(of.reserved.first - now, 1e-9))
        of.has_probe = False
        of.grant()
        return 0.0

    def take_back(self, costs: Amounts, now: float) -> None:
        """Undo `admit()`."""
        self._of.put_back(costs)
        self._of.give_back_grant()

    def due(self, costs: Amounts) -> float:
        """Return when the head may go, as far as is known."""
        return float(self._of.reserved.first)

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until `costs` may go."""
        of = self._of
        if now - of.last > _FRESH:
            return float(max(0.0, of.paused_until - now))
        return LocalState.eta(of, costs, of.reserved.behind(ahead), now)

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the seconds the head still has to wait at the least."""
        of = self._of
        return 0.0 if of.reserved.permits else float(max(0.0, of.paused_until - now, of.opens_at - now))

    def charge(self, units: Sequence[float], now: float) -> None:
        """Tell the store of `units` that were settled."""
        self._of.outbox.charge(units, now)

    def slow_down(self, now: float) -> None:
        """Have everybody use less of the rate."""
        self._of.outbox.cut = True
        self._of.outbox.at_once()

    def probe_answered(self, number: int, *, passed: bool) -> bool:
        """Say how the first call after a pause ended; its process alone knows."""
        self._of.outbox.probe, self._of.outbox.passed = number, passed
        self._of.outbox.at_once()
        return True


class Alone(Online):
    """Keep to this process's share of the rates and slots, as a budget of its own does."""

    __slots__ = ()
    name = "local"
    online = False

    def begin(self, now: float) -> None:
        """Begin to use this process's share of the rates, without a burst: others may have used it."""
        of = self._of
        # The probe may be another process's; its answer will not arrive.
        of.half_open.answered(of.half_open.number, passed=False)
        before, workers, base = of.rules.rules, of.processes, of.base
        of.rules = base.like([self._share_of(place, rule, workers) for place, rule in enumerate(base.rules)])
        tats = []
        for place, rule in enumerate(of.rules.rules):
            if rule.window is None:
                tats.append(now + rule.burst * rule.interval)
                continue
            # Of a day, its share of what the store said is left of it.
            used, start, _ = rule.window.of(of.tats[place])
            tats.append(start + (used - start) / before[place].interval / workers * rule.interval)
        of.tats = of.alone_from = tuple(tats)

    def _share_of(self, place: int, rule: Rule, workers: int) -> Rule:
        rate = rule.rate
        amount, burst = rate.amount / workers, rule.burst / workers
        if rule.window is not None:
            return replace(rule, rate=replace(rate, amount=amount, burst=math.nan))
        # Whatever was asked for so far can still be asked for.
        burst = max(burst, self._of.largest[place], 1.0)
        burst = min(burst, amount / 2) if rule.strict else min(rate.burst, burst)
        return Rule(rule.name, Rate(amount, rate.period, burst), rule.strict)

    def went(self) -> Amounts:
        """Return what went of each window by the calendar without the store, which it has to hear."""
        of = self._of
        units = [0.0] * len(of.rules.rules)
        for place, rule in enumerate(of.rules.rules):
            if rule.window is not None:
                used, start, _ = rule.window.of(of.tats[place])
                units[place] = (used - max(start, of.alone_from[place])) / rule.interval
        return tuple(units)

    def size(self, whole: int) -> int:
        """Return how many of `whole` slots may be out here."""
        return max(1, whole // int(self._of.processes))

    def full(self) -> bool:
        """Tell whether every slot is out."""
        size = self._of.size
        return size is not None and self._of.held >= size

    def quiet(self, now: float) -> bool:
        """Tell whether nothing is to be remembered."""
        return bool(self._of.rules.idle(self._of.tats, now) and now >= self._of.paused_until)

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Take `costs`, or return the seconds until they may go."""
        return LocalState.admit(self._of, costs, now, credit=credit)

    def take_back(self, costs: Amounts, now: float) -> None:
        """Undo `admit()`."""
        LocalState.take_back(self._of, costs, now)

    def due(self, costs: Amounts) -> float:
        """Return when the head may go, as far as is known."""
        return LocalState.due(self._of, costs)

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until `costs` may go."""
        return LocalState.eta(self._of, costs, ahead, now)

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the seconds the head still has to wait at the least."""
        return LocalState.wait(self._of, costs, now)

    def charge(self, units: Sequence[float], now: float) -> None:
        """Tell nobody."""

    def slow_down(self, now: float) -> None:
        """Use less of the rate here."""
        LocalState.slow_down(self._of, now)

    def probe_answered(self, number: int, *, passed: bool) -> bool:
        """Hear how the first call after a pause ended."""
        return bool(self._of.half_open.answered(number, passed=passed))


class Closed(Alone):
    """Let nothing through."""

    __slots__ = ()
    name = "closed"

    def went(self) -> Amounts:
        """Return that nothing was counted."""
        return Online.went(self)

    def size(self, whole: int) -> int:
        """Return all of `whole`."""
        return whole

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Refuse."""
        return math.inf

    def take_back(self, costs: Amounts, now: float) -> None:
        """Undo `admit()`."""
        self._of.give_back_grant()

    def due(self, costs: Amounts) -> float:
        """Return that nobody knows."""
        return math.inf

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return when the backend is asked again."""
        return PROBE

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the least."""
        return 0.0


class Open(Closed):
    """Let everything through, but for pauses."""

    __slots__ = ()
    name = "open"

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Take `costs`, or return the seconds until a pause ends."""
        if now < self._of.paused_until:
            return float(max(self._of.paused_until - now, 1e-9))
        self._of.grant()
        return 0.0

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until a pause ends."""
        return float(max(0.0, self._of.paused_until - now))


# By what `on_backend_error` says.
AWAY = {kind.name: kind for kind in (Alone, Open, Closed)}
