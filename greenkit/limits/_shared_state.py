"""What this process knows of a budget that lives in a shared store: its part of it, and what it has to say.

The budget has its lock around every call, and the agent carries the requests.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from greenkit.limits._gcra import Rule, Rules
from greenkit.limits._local import LocalState
from greenkit.limits._protocol import HORIZON, MICRO, WORKER_GONE, Item, Request
from greenkit.limits._rates import Rate
from greenkit.limits._reservations import AWAY, PROBE, Online, Outbox, Reservations, Try

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit._aimd import AdaptiveSize
    from greenkit.limits._gcra import Amounts
    from greenkit.limits._protocol import Reply
    from greenkit.limits._queue import Queue, Waiter

__all__ = ["SharedState"]

# A request gathers waiters for a share of the horizon between these, and books early enough to lose no slot
# by it. Drawn anew each time: of two processes in step the first would have all, and the other nothing.
_GATHER = (0.25, 0.5)
# Or, where less is booked than that, until so much of it is used up.
_EARLY = 0.75
# Where all who waited were booked there is nobody to be ahead of: it gathers until so much of what waits has
# nothing in hand, or for this share of the horizon.
_ENOUGH, _LONGEST = 0.75, 0.6
# Waiters named in one request; the others are named in the next.
_MOST_ITEMS = 256
# However late it will be: others may give back, end a pause, or change the limits.
_POLL_AT_LEAST = 1.0
# Slots of others come free without a word, and theirs wait to hear of ours.
_SLOT_PROBE = 0.05
# So do those who wait for the first call after a pause, which may be another process's.
_PROBE_POLL = 0.1
_random = Random()  # its own: a limiter must not disturb the program's random numbers


class SharedState(LocalState):
    """Keep this process's part of a shared budget.

    Args:
        rules: As configured, for the whole fleet.
        slots: Of the whole fleet, or None.
        worker: Names this process, a forked one anew.
        on_error: "local", "open" or "closed": what to do while the backend is away.
        processes: How many there are at the least, whatever the store has heard of.

    Attributes:
        tries: Who wants to know now.
        asked_at: Clock reading at which the request under way was made; `inf` when none is.
    """

    __slots__ = (
        "_alone",
        "_away",
        "_back",
        "_backend",
        "_floors",
        "_gather",
        "_horizon",
        "_largest",
        "_least",
        "_online",
        "_retry_at",
        "_seen",
        "_sent",
        "_strict",
        "_told_at",
        "_told_time",
        "_void",
        "_worker",
        "_workers",
        "asked_at",
        "has_probe",
        "lacks_slots",
        "last",
        "opens_at",
        "outbox",
        "reported",
        "reserved",
        "tries",
    )

    def __init__(
        self,
        rules: Rules,
        slots: int | None,
        *,
        worker: Callable[[], str],
        on_error: str,
        processes: int = 1,
    ) -> None:
        super().__init__(rules, slots)
        self._online = self._backend = Online(self)
        self._away = AWAY[on_error](self)
        self._worker = worker
        self._strict = any(rule.strict for rule in rules.rules)
        self._largest: Amounts = (0.0,) * len(rules.rules)
        self._seen, self._floors = 0, (0.0,) * len(rules.rules)
        # The record's time in the last reply, and this process's clock when it came.
        self._told_time, self._told_at = -1.0, 0.0
        self._workers, self._horizon, self._gather = processes, HORIZON, 0.0
        self._least = processes
        self._back = self._void = False
        self._alone = self.tats  # what was used when the store was given up
        self.last = -math.inf
        self._begin()

    def _begin(self) -> None:
        """Have nothing in hand, nothing to say, and nothing under way."""
        self.reserved = Reservations(len(self.rules.rules), strict=self._strict)
        self.outbox = Outbox.empty(len(self.rules.rules))
        self._sent: tuple[list[Waiter], list[Try], int] = ([], [], 0)
        self.tries: list[Try] = []
        self.asked_at = math.inf
        self._retry_at = self.opens_at = -math.inf
        self.reported = 0
        self.lacks_slots = False
        self.has_probe = False  # the permit that goes first after a pause is booked here, and not used yet

    # -- as LocalState -------------------------------------------------------------------------------

    def quiet(self, now: float) -> bool:
        """Tell whether the store knows all there is to know."""
        told = self.outbox.due == math.inf and not self.reserved.permits and self.asked_at == math.inf
        return told and not self.held and self._backend.quiet(now)

    @property
    def mode(self) -> str:
        """Return "shared", or what `on_backend_error` says while the backend is away."""
        return self._backend.name

    @property
    def online(self) -> bool:
        """Tell whether the backend answers."""
        return self._backend.online

    @property
    def processes(self) -> int:
        """Return how many processes there are, as far as is known."""
        return max(self._workers, self._least)

    @property
    def size(self) -> int | None:
        """Return how many may be out at once: in the fleet, or here while the store is away."""
        size = super().size
        return None if size is None else self._backend.size(size)

    @property
    def full(self) -> bool:
        """Tell whether every slot is out, as far as this process knows."""
        return self._backend.full()

    def admit(self, costs: Amounts, now: float, *, credit: float) -> float:
        """Take `costs` from what was booked; else return the seconds until more is."""
        return self._backend.admit(costs, now, credit)

    def grant(self) -> None:
        """Count a permit that went."""
        self.held += self.slots is not None
        self.granted += 1

    def take_back(self, costs: Amounts, now: float) -> None:
        """Put `costs` back in hand."""
        self._backend.take_back(costs, now)

    def give_back_grant(self) -> None:
        """Count a permit that went back, and its slot."""
        self.give_back_slot()
        self.granted -= 1

    def give_back_slot(self) -> None:
        """Count a slot as free; the next request says so."""
        if self.held:
            super().give_back_slot()
            self.lacks_slots = False
            self._retry_at = -math.inf

    def due(self, costs: Amounts) -> float:
        """Return when the next booked slot opens."""
        return self._backend.due(costs)

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until `costs` may go, by the store's last answer."""
        return self._backend.eta(costs, ahead, now)

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the seconds the head still has to wait at the least."""
        return self._backend.wait(costs, now)

    def too_high(self, costs: Amounts) -> Exception | None:
        """Return why no wait can help, were the store there."""
        return self._base.too_high(costs)

    def settle(self, before: Amounts, costs: Mapping[str, float], now: float) -> Amounts:
        """Correct what `before` cost here, and say so soon."""
        after = super().settle(before, costs, now)
        self._backend.charge([new - old for new, old in zip(after, before, strict=True)], now)
        return after

    def slow_down(self, now: float) -> None:
        """Have everybody use less of the rate."""
        self._backend.slow_down(now)

    def pause(self, seconds: float, now: float, *, asked: bool) -> None:
        """Have nobody go for `seconds`."""
        super().pause(seconds, now, asked=asked)
        outbox = self.outbox
        outbox.pause, outbox.resume = max(outbox.pause, seconds), False
        outbox.asked |= asked
        outbox.at_once()
        # What was booked was booked before the pause was known.
        self._give_back(now)

    def probe_answered(self, number: int, now: float, *, passed: bool) -> bool:
        """Say how the first call after a pause ended."""
        return self._backend.probe_answered(number, passed=passed)

    def resume(self) -> None:
        """End the pause for everybody."""
        super().resume()
        self.outbox.pause, self.outbox.asked, self.outbox.resume = 0.0, False, True
        self.outbox.at_once()
        self._retry_at = self.opens_at = -math.inf

    def limit_to(self, available: Mapping[str, float], now: float) -> bool:
        """Say that no more is left than `available`."""
        if not super().limit_to(available, now):
            return False
        self.outbox.left = tuple([available.get(name, -1.0) for name in self.rules.names])
        self.outbox.soon(now)
        return True

    def ceil(self, shares: Mapping[str, float], now: float) -> bool:
        """Say what the server's own limits are."""
        if not super().ceil(shares, now):
            return False
        self.outbox.shares = tuple([min(1.0, shares.get(name, -1.0)) for name in self.rules.names])
        self.outbox.soon(now)
        return True

    def configure(self, rules: Rules, slots: int | AdaptiveSize | None, now: float) -> None:
        """Go on under other rules, from the next request on."""
        super().configure(rules, slots, now)
        self._retry_at = self.opens_at = -math.inf

    def forget_slots(self) -> None:
        """Leave what the parent has booked to the parent."""
        super().forget_slots()
        self._begin()

    # -- talking to the store ------------------------------------------------------------------------

    def wants(self, queue: Queue, now: float) -> float:
        """Return the clock reading at which there is something to say; `inf` for nothing."""
        if not self.online:
            return self.last + PROBE
        if self.tries or (self.reserved.permits and not queue.waiting):
            return -math.inf
        at = self.outbox.due
        # Counted first: looking at each waiter takes a while, and this is asked whenever one comes.
        if queue.waiting > self.reserved.permits or (queue.waiting and self.reserved.uncovered(queue, 1)):
            at = min(at, max(self._retry_at, self._gathered(queue)))
        if self.slots is not None:
            if self.held + self.reserved.permits != self.reported:
                at = min(at, self.last + _SLOT_PROBE)
            if self.held:  # or its slots would be taken for those of a dead process
                at = min(at, self.last + WORKER_GONE / 3)
        return at

    def _gathered(self, queue: Queue) -> float:
        """Return when enough wait with nothing in hand to be worth a request."""
        reserved, last = self.reserved, self.last
        if self._retry_at > -math.inf:
            return last + min((reserved.last - last) * _EARLY, self._gather)
        left = queue.waiting * (1 - _ENOUGH)
        if self._workers > 1:
            left /= 2  # the places of others lie between those left here and those to come
        return min(reserved.instant(math.ceil(left)), last + self._horizon * _LONGEST)

    def compose(self, queue: Queue, now: float) -> Request:
        """Return everything there is to say; `answered()` or `lost()` follows."""
        if not queue.waiting:
            self._give_back(now)
        tries, self.tries = self.tries, []
        asked = self.reserved.uncovered(queue, _MOST_ITEMS) if queue.waiting else []
        items = [Item(attempt.costs, ahead=False) for attempt in tries]
        items += [Item(waiter.costs, ahead=True) for waiter in asked]
        for item in items:
            self._largest = tuple(map(max, self._largest, item.costs))
        held = self.held + self.reserved.permits
        self._sent = (asked, tries, held)
        self.asked_at, self._void = now, False
        return self._request(held, tuple(items), now)

    def _request(self, held: int, items: tuple[Item, ...], now: float) -> Request:
        deltas = tuple(map(sum, zip(self.outbox.deltas, self._went_alone(), strict=True)))
        outbox, self.outbox = self.outbox, Outbox.empty(len(self.rules.rules))
        intervals = tuple([rule.interval * MICRO for rule in self._base.rules])
        bursts = tuple([rule.burst for rule in self._base.rules])
        return Request(
            self._worker(), self._base.names, intervals, bursts, self._seen, self._floors,
            deltas, outbox.left, outbox.shares,
            expected=self._told_time + (now - self._told_at) * MICRO if self._seen else -1.0,
            pause=outbox.pause * MICRO, resume=outbox.resume, cut=outbox.cut,
            asked=outbox.asked, probe=outbox.probe, passed=outbox.passed,
            back=self._back, held=held, size=super().size or 0, items=items, spans=self._spans(now),
        )  # fmt: skip

    def _spans(self, now: float) -> tuple[Amounts, ...]:
        """Return the windows by the calendar for the store, whose clock decides which of them it is in."""
        if not self._base.calendars:
            return ()
        spans: list[Amounts] = []
        for rule in self._base.rules:
            if rule.window is None:
                spans.append((0.0,) * 4)
                continue
            # By the store's clock where it is known: this machine's may be days away from it.
            known = self._told_time / MICRO + now - self._told_at if self._seen else None
            span = rule.window.span if known is None else rule.window.span_at(known)
            bounds = (span.before, span.start, span.end, span.after)
            spans.append(tuple([bound * MICRO for bound in bounds]))
        return tuple(spans)

    def answered(self, reply: Reply, now: float) -> list[Try]:
        """Take the store's answer in; return the tries it answers."""
        self._seen, self._floors = reply.count, reply.tats
        self._told_time, self._told_at = reply.now, now
        if self._void:
            # It was asked before the store was given up, and knows nothing of what went meanwhile.
            self.last = -math.inf
            return []
        self._backend, self._back = self._online, False
        self.asked_at, self.last = math.inf, now
        self._workers, self._horizon = reply.workers, reply.horizon / MICRO
        self._gather = self._horizon * _random.uniform(*_GATHER)
        self.lacks_slots = reply.full
        self._own_pace().factor = reply.factor
        self._follow_pace(now)
        self.tats = tuple(
            [
                now + (tat - reply.now) / MICRO if rule.window is None else tat / MICRO
                for tat, rule in zip(reply.tats, self._base.rules, strict=True)
            ]
        )
        paused = self._follow_pauses(reply, now)
        asked, tries, held = self._sent
        self._sent = ([], [], 0)
        self.reported = held + sum(offset >= 0 for offset in reply.offsets)
        for attempt, offset in zip(tries, reply.offsets, strict=False):
            attempt.answer = 0.0 if offset >= 0 else max((-1.0 - offset) / MICRO, 1e-9)
            if attempt.left and not attempt.answer:
                self.put_back(attempt.costs)
        if paused:
            self._give_back(now)  # somebody else's pause, which our bookings knew nothing of
        self._booked(asked, reply.offsets[len(tries) :], now, reply)
        if self.outbox.pause:
            self._give_back(now)  # a pause that began since it was asked
        return tries

    def _follow_pauses(self, reply: Reply, now: float) -> bool:
        """Take over the pause in force; tell whether what is in hand was booked in ignorance of it."""
        if self.outbox.pause:  # not told yet: it goes on whatever the store says of itself
            return False
        unknown = reply.half_open not in {0, self.half_open.number}
        paused = (reply.paused > 0 and now >= self.paused_until) or unknown
        self.paused_until = now + reply.paused / MICRO if reply.paused else -math.inf
        self.half_open.open()
        if reply.half_open:
            self.half_open.begin(reply.half_open)
            self.half_open.out = reply.blocked
        return paused

    def _booked(self, asked: list[Waiter], offsets: Amounts, now: float, reply: Reply) -> None:
        full = reply.full or reply.blocked
        self._retry_at = self.opens_at = -math.inf
        for waiter, offset in zip(asked, offsets, strict=False):
            if offset >= 0:
                self.reserved.book(now + offset / MICRO, waiter.costs)
                self.has_probe = bool(reply.half_open)
                continue
            ahead = (-1.0 - offset) / MICRO
            later = max(self._gather, ahead - self._horizon)
            if full:
                later = _SLOT_PROBE if reply.full else _PROBE_POLL
            self._retry_at = now + min(later, _POLL_AT_LEAST)
            self.opens_at = -math.inf if full else now + ahead

    def lost(self, now: float) -> list[Try]:
        """Go on without the store, which does not answer; return the tries to be decided here."""
        tries = self._sent[1] + self.tries
        self._void = True
        if self.online:
            self._backend = self._away
            self._begin()
            self._stand_alone(now)
        self._sent, self.tries = ([], [], 0), []
        # Not all processes at the same instant.
        self.asked_at, self.last = math.inf, now - _random.uniform(0.0, 0.2) * PROBE
        self._back = True
        return tries

    def _stand_alone(self, now: float) -> None:
        """Begin to use this process's share of the rates, without a burst: others may have used it."""
        self.half_open.answered(
            self.half_open.number, passed=False
        )  # whose probe it was nobody says any more
        workers = self.processes
        before, self.rules = (
            self.rules,
            self._base.like(
                [self._share_of(place, rule, workers) for place, rule in enumerate(self._base.rules)]
            ),
        )
        tats = []
        for place, rule in enumerate(self.rules.rules):
            was = before.rules[place]
            if rule.window is None:
                tats.append(now + rule.burst * rule.interval)
                continue
            # Of a day, its share of what the store said is left of it.
            used, start, _ = rule.window.of(self.tats[place])
            tats.append(start + (used - start) / was.interval / workers * rule.interval)
        self.tats = self._alone = tuple(tats)

    def _share_of(self, place: int, rule: Rule, workers: int) -> Rule:
        rate = rule.rate
        amount, burst = rate.amount / workers, rule.burst / workers
        if rule.window is not None:
            return replace(rule, rate=replace(rate, amount=amount, burst=math.nan))
        # Whatever was asked for so far can still be asked for.
        burst = max(burst, self._largest[place], 1.0)
        burst = min(burst, amount / 2) if rule.strict else min(rate.burst, burst)
        return Rule(rule.name, Rate(amount, rate.period, burst), rule.strict)

    def _went_alone(self) -> Amounts:
        """Return what went of each window by the calendar while the store was away, which it has to hear."""
        units = [0.0] * len(self.rules.rules)
        if self._backend.name == "local":
            for place, rule in enumerate(self.rules.rules):
                if rule.window is not None:
                    used, start, _ = rule.window.of(self.tats[place])
                    units[place] = (used - max(start, self._alone[place])) / rule.interval
        return tuple(units)

    def _give_back(self, now: float) -> None:
        """Refund what is in hand."""
        if self.has_probe:
            self.has_probe = False
            self.probe_answered(self.half_open.number, now, passed=False)
        self.outbox.charge([-units for units in self.reserved.empty()], now)

    def put_back(self, costs: Amounts) -> None:
        """Have `costs` in hand again: who asked for them was killed."""
        self.reserved.put_back(costs)
        self.has_probe = self.has_probe or bool(self.half_open.number)
