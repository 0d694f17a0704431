"""A budget whose state is shared with other processes: what this process knows of it, and what it has to say.

The budget has its lock around every call of the state, and `_sync` carries the requests.
"""

from __future__ import annotations

import math
from operator import sub
from random import Random
from typing import TYPE_CHECKING

from greenkit._aimd import AdaptiveSize
from greenkit.limits._gcra import Rules
from greenkit.limits._local import LocalBudget, LocalState
from greenkit.limits._protocol import HORIZON, MICRO, WORKER_GONE, Item, Request
from greenkit.limits._queue import NORMAL, parker_here
from greenkit.limits._reservations import AWAY, PROBE, Online, Outbox, Reservations, Try
from greenkit.limits._sync import sync_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit._aimd import AdaptiveSize
    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._protocol import Reply
    from greenkit.limits._queue import Queue, Waiter
    from greenkit.limits._sync import Wire


__all__ = ["SharedBudget", "SharedState"]

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
# Retry at least this often: another process may refund, resume, or change the limits.
_POLL_AT_LEAST = 1.0
# Other processes do not announce freed slots, and wait to hear of ours: poll.
_SLOT_PROBE = 0.05
# The first call after a pause may be another process's: poll for its answer, too.
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
        "_away",
        "_back",
        "_backend",
        "_floors",
        "_gather",
        "_horizon",
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
        "alone_from",
        "asked_at",
        "has_probe",
        "lacks_slots",
        "largest",
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
        self.largest: Amounts = (0.0,) * len(rules.rules)
        self._seen, self._floors = 0, (0.0,) * len(rules.rules)
        # The record's time in the last reply, and this process's clock when it came.
        self._told_time, self._told_at = -1.0, 0.0
        self._workers, self._horizon, self._gather = processes, HORIZON, 0.0
        self._least = processes
        self._back = self._void = False
        self.alone_from = self.tats  # what was used when the store was given up
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
        return self.base.too_high(costs)

    def settle(self, before: Amounts, costs: Mapping[str, float], now: float) -> Amounts:
        """Correct what `before` cost here, and say so soon."""
        after = super().settle(before, costs, now)
        self._backend.charge(tuple(map(sub, after, before)), now)
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
            left /= 2  # slots of other processes lie between those left here and those to come
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
            self.largest = tuple(map(max, self.largest, item.costs))
        held = self.held + self.reserved.permits
        self._sent = (asked, tries, held)
        self.asked_at, self._void = now, False
        return self._request(held, tuple(items), now)

    def _request(self, held: int, items: tuple[Item, ...], now: float) -> Request:
        deltas = tuple(map(sum, zip(self.outbox.deltas, self._backend.went(), strict=True)))
        outbox, self.outbox = self.outbox, Outbox.empty(len(self.rules.rules))
        intervals = tuple([rule.interval * MICRO for rule in self.base.rules])
        bursts = tuple([rule.burst for rule in self.base.rules])
        return Request(
            self._worker(), self.base.names, intervals, bursts, self._seen, self._floors,
            deltas, outbox.left, outbox.shares,
            expected=self._told_time + (now - self._told_at) * MICRO if self._seen else -1.0,
            pause=outbox.pause * MICRO, resume=outbox.resume, cut=outbox.cut,
            asked=outbox.asked, probe=outbox.probe, passed=outbox.passed,
            back=self._back, held=held, size=super().size or 0, items=items, spans=self._spans(now),
        )  # fmt: skip

    def _spans(self, now: float) -> tuple[Amounts, ...]:
        """Return the windows by the calendar for the store, whose clock decides which of them it is in."""
        if not self.base.calendars:
            return ()
        spans: list[Amounts] = []
        for rule in self.base.rules:
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
                for tat, rule in zip(reply.tats, self.base.rules, strict=True)
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
            self._give_back(now)  # a pause of another process, unknown when our slots were booked
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
            self._away.begin(now)
        self._sent, self.tries = ([], [], 0), []
        # Jitter: not all processes probe at the same instant.
        self.asked_at, self.last = math.inf, now - _random.uniform(0.0, 0.2) * PROBE
        self._back = True
        return tries

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


# A backend that is silent for so long is away, whatever its client is still waiting for; and for so much
# longer after that was first seen: a process that was kept busy sees the time before it sees the answer.
# Second looks that come late do not count, up to a number: a hub that stood still runs timers, then reads.
_SILENCE, _SECOND_LOOK, _LATE, _MOST_LATE = 0.25, 0.05, 0.1, 5
# While a caller waits, check this often that the sync greenlet is alive.
_LOOK = 0.5


class SharedBudget(LocalBudget):
    """Grant what a shared store books for this process.

    Args:
        state: This process's part.
        clock: Where `now` comes from.
        name: Shown in errors.
        record: Name of the record in the backend.
        backend: What tells one backend from another.
        connect: Makes the wire to it.
    """

    __slots__ = ("_backend", "_connect", "_late", "_looked_at", "_silent", "record")

    state: SharedState

    def __init__(
        self,
        state: SharedState,
        *,
        clock: Clock,
        name: str,
        record: str,
        backend: object,
        connect: Callable[[], Wire],
    ) -> None:
        super().__init__(state, clock=clock, name=name)
        self._looked_at = -math.inf
        self._silent = (math.inf, 0.0)  # of which request it was first seen that it has no answer, and when
        self._late = 0  # second looks that came too late
        self.record = record
        self._backend = backend
        self._connect = connect
        if sync_of(backend, connect).away:
            state.lost(self.now())  # as all know by now; no need to wait for it once more

    def take_nowait(self, costs: Amounts) -> float:
        """Take `costs` if they are in hand, else say anything but 0; never asks."""
        with self.lock:
            if not self.state.online:
                self._tell()  # the sync greenlet has to ask whether the backend is back
            return 1.0 if self.queue.waiting else self.state.admit(costs, self.now(), credit=0.0)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """Take `costs` when their turn has come and the backend has booked them; see `LocalBudget.take()`."""
        if until <= self.now() and not self.try_take(costs):
            return  # no time to wait is time enough to ask
        super().take(costs, lane=lane, until=until)

    def try_take(self, costs: Amounts) -> float:
        """Take `costs` if nobody waits here and the backend lets them go now.

        Returns:
            0.0 when taken, else the seconds after which they would pass.
        """
        with self.lock:
            if self.queue.waiting:
                return max(self.state.eta(costs, self.queue.ahead(NORMAL), self.now()), 1e-9)
            if not self.state.online:
                return self._alone(costs)
            if not self.state.admit(costs, self.now(), credit=0.0):
                return 0.0
            parker = parker_here()
            attempt = Try(costs, parker)
            self.state.tries.append(attempt)
            self._tell()
        try:
            while attempt.answer is None:
                parker.park(max(_SECOND_LOOK, min(_SILENCE, self._verdict_at() - self.now())))
                if attempt.answer is None:
                    self._look_at_silence()
        except BaseException:
            with self.lock:
                attempt.left = True
                if attempt.answer == 0.0:
                    self.state.take_back(costs, self.now())
                    self._tell()
            raise
        return attempt.answer

    # -- for the sync greenlet -------------------------------------------------------------------------------

    def wants(self) -> float:
        """Return the seconds until this budget has something to say; 0 or less for now, `inf` for nothing."""
        with self.lock:
            now = self.now()
            at = self.state.wants(self.queue, now)
            return 0.0 if at <= now else at - now

    def compose(self) -> Request:
        """Return all there is to say."""
        with self.lock:
            return self.state.compose(self.queue, self.now())

    def apply(self, reply: Reply) -> None:
        """Take the answer in."""
        with self.lock:
            for attempt in self.state.answered(reply, self.now()):
                if attempt.answer == 0.0 and not attempt.left:
                    self.state.grant()
                if attempt.answer is None:
                    attempt.answer = 0.1
                attempt.parker.wake()
            self._look_soon()

    def lost(self, error: BaseException) -> None:
        """Go on without the backend."""
        with self.lock:
            for attempt in self.state.lost(self.now()):
                if not attempt.left:
                    attempt.answer = self._alone(attempt.costs)
                attempt.parker.wake()
            self._look_soon()

    # -- the lock is held in all that follows --------------------------------------------------------

    def _alone(self, costs: Amounts) -> float:
        self._tell()
        now = self.now()
        wait = self.state.admit(costs, now, credit=0.0)
        return wait if wait < math.inf else max(self.state.eta(costs, (0.0,) * len(costs), now), 1e-9)

    def _tell(self) -> None:
        sync_of(self._backend, self._connect).serve(self)

    def _look_at_silence(self) -> None:
        with self.lock:
            if self._is_silent(self.now()):
                self.lost(TimeoutError())
            else:
                self._tell()

    def _is_silent(self, now: float) -> bool:
        """Tell whether the backend does not answer, though this process has looked twice."""
        asked_at = self.state.asked_at
        if now - asked_at < _SILENCE:
            return False
        new, waited = self._silent[0] != asked_at, now - self._silent[1]
        if new or (waited > _SECOND_LOOK + _LATE and self._late < _MOST_LATE):
            self._silent, self._late = (asked_at, now), 0 if new else self._late + 1
            return False
        return waited >= _SECOND_LOOK

    def _verdict_at(self) -> float:
        """Return when to look whether the backend has answered; `inf` while it was asked nothing."""
        if self.state.asked_at == math.inf:
            return math.inf  # or a timer would go off at once, again and again, for as long as a caller waits
        asked_at, seen_at = self.state.asked_at, self._silent[1]
        return seen_at + _SECOND_LOOK if self._silent[0] == asked_at else asked_at + _SILENCE

    def _next(self, now: float) -> Waiter | None:
        if self._is_silent(now):
            self.lost(TimeoutError())
        elif now - self._looked_at >= _LOOK:
            self._looked_at = now
            self._tell()
        return super()._next(now)

    def _set_timer(self, head: Waiter, due: float, now: float) -> None:
        self._time(head, min(due, self._verdict_at(), now + _LOOK, self.queue.next_expiry()), now)
