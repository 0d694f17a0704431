"""What a process and a shared store say to each other, and what the store answers: pure arithmetic.

A store keeps one small record per limiter. `exchange()` takes the record, a request and the store's
own clock, changes the record and answers; the Postgres store runs it as it stands, `exchange.lua` says
the same inside Redis and Valkey, and a test holds the two together. A process never compares its clock
with another's: it gets offsets from the instant of the answer.

All times are microseconds since 2025 by the time of the record, so that a double still tells 1/128 of one.
That time is the store's clock as long as it runs evenly. When the clock steps back (NTP, a failover, a
restored machine) the record's time stands still and then goes on from there; when it steps forward, a
process that has counted less time by its own monotonic clock says so, and the step is left out. The record
keeps the difference between its time and the clock, so no stamp in it ever lies ahead by a step.

A dimension is found by its name: processes whose limiters differ share the dimensions they have in common.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from greenkit._aimd import CUT, CUT_INTERVAL, RECOVERY, SLOWEST
from greenkit.limits._gcra import PROBE_TIME
from greenkit.limits._rates import EPOCH

if TYPE_CHECKING:
    from greenkit.limits._gcra import Amounts

    Record = dict[str, float]

__all__ = [
    "EPOCH",
    "FORMAT",
    "HORIZON",
    "MICRO",
    "WORKER_GONE",
    "Item",
    "RecordError",
    "Reply",
    "Request",
    "checked",
    "exchange",
    "numbers_in",
]

# Of the record. A record of another format is not read: its numbers mean something else.
FORMAT = 2
MICRO = 1e6
# A request and the reply before it were each under way for a quarter of a second at the most; a clock that
# is further ahead of what a process expects has stepped.
_STEP = 0.5
# No stamp or amount is larger; what is, is no number of ours.
_LARGEST = 1e300
# A worker not heard of for so long (seconds) counts no more, and its slots are free again.
WORKER_GONE = 10.0
# How far ahead (seconds) slots are booked: far enough that each of the processes gets some at once, which is
# what keeps round trips few. What a process that dies takes with it is no more than this long.
HORIZON, _LONGEST = 0.25, 1.0
_AT_ONCE = 20
# The time a permit takes of the rate, smoothed over so many.
_SMOOTH = 16
# Workers come back one after the other; the first has emptied the budget for all.
_BACK = 5.0
# Seconds a caller that was refused for want of a slot, or behind a probe, waits before it asks again.
_SLOT_RETRY = 0.1
_NO_SPAN = (0.0, 0.0, 0.0, 0.0)
# Of an amount by the calendar: fractions of units come out a little more than they are.
_ROUNDING = 1e-9


class RecordError(Exception):
    """What the store has under the name of one limiter, or answers for it, cannot be used."""


@dataclass(frozen=True, slots=True)
class Item:
    """Ask for one permit.

    Attributes:
        costs: By dimension.
        ahead: It may be booked ahead, up to the horizon; else it is now or never.
    """

    costs: Amounts
    ahead: bool


@dataclass(frozen=True, slots=True)
class Request:
    """Carry everything one process has to say about one limiter.

    Attributes:
        worker: Names the process.
        names: Of the dimensions, in the order of everything that is per dimension.
        expected: What the record's time is now by this process's own clock, for a record or a clock that
            jumped; negative when it has had no reply yet.
        intervals: Per dimension, time one unit takes to come back, as configured.
        bursts: Per dimension.
        seen: The highest count of a reply so far. A record that has a lower one has lost its memory.
        floors: Per dimension, the state of that reply, for such a record.
        deltas: Per dimension, units to charge, or when negative to refund.
        left: Per dimension, the units that may go now at the most; -1 for no news.
        shares: Per dimension, the server's own limit as a share of the configured rate; -1 for no news.
        pause: How long nobody may go; 0 for no news.
        asked: The server asked for that pause, so one permit of all processes goes first when it is over.
        probe: Number of the pause whose probe has been heard of; 0 for none.
        passed: That probe was let in; else another goes first.
        resume: End a pause.
        cut: Slow down after a 429.
        back: This process went without the store for a while.
        held: Slots it has out now.
        size: Slots of all processes together; 0 when they are not counted.
        items: Who waits, in order.
        spans: Per dimension, by the clock of the store, beginnings and end of three windows by the calendar:
            the one before, the one of now, the next; zeros for a rate. Its interval is a step of its state.
    """

    worker: str
    names: tuple[str, ...]
    intervals: Amounts
    bursts: Amounts
    seen: int
    floors: Amounts
    deltas: Amounts
    left: Amounts
    shares: Amounts
    expected: float = -1.0
    pause: float = 0.0
    resume: bool = False
    cut: bool = False
    back: bool = False
    held: int = 0
    size: int = 0
    asked: bool = False
    probe: int = 0
    passed: bool = False
    items: tuple[Item, ...] = ()
    spans: tuple[Amounts, ...] = ()

    def lasts(self, record: Record, now: float) -> float:
        """Return for how long the record is worth remembering: idle for longer, the budget is full."""
        full = [
            interval * burst
            for place, (interval, burst) in enumerate(zip(self.intervals, self.bursts, strict=True))
            if not self.span(place)[-1]
        ]
        # Also of dimensions that only others limit, and until the end of the windows there are.
        ahead = [stamp - now for name, stamp in record.items() if name.startswith("t:")]
        return 2 * max([*full, *ahead, 0.0]) + 60 * MICRO

    def span(self, place: int) -> Amounts:
        """Return the boundaries of windows by the calendar, zeros for a rate."""
        return self.spans[place] if self.spans else _NO_SPAN

    def arguments(self) -> list[str]:
        """Return everything as `exchange.lua` reads it."""
        head = (
            self.expected, self.seen, self.back, self.pause, self.resume, self.cut, self.held, self.size,
            self.asked, self.probe, self.passed,
        )  # fmt: skip
        columns = (self.intervals, self.bursts, self.floors, self.deltas, self.left, self.shares)
        numbers = [*head]
        for place, row in enumerate(zip(*columns, strict=True)):
            numbers += [*row, *self.span(place)]
        for item in self.items:
            numbers += [item.ahead, *item.costs]
        words = [str(FORMAT), self.worker, str(len(self.names)), *self.names]
        return [*words, *(format(float(number), ".17g") for number in numbers)]


@dataclass(frozen=True, slots=True)
class Reply:
    """Carry what a process needs to know.

    Attributes:
        count: How often the record has been asked, for `Request.seen`.
        now: The time of the record.
        tats: Per dimension.
        paused: How much longer nobody may go.
        factor: Share of the configured rates in use after 429s.
        workers: Processes heard of lately, at least 1.
        horizon: How far ahead was booked.
        offsets: For the items from the first on: booked so far from now; or, when negative, refused, and
            -1 - offset is how far from now it would pass. After one refused that could have been booked ahead
            no more are looked at.
        full: Slots were what was missing.
        half_open: Number of the pause after which one permit goes first; 0 when all may go.
        blocked: That permit is out, and the rest wait for its answer.
    """

    count: int
    now: float
    tats: Amounts
    paused: float
    factor: float
    workers: int
    horizon: float
    offsets: tuple[float, ...] = field(default=())
    full: bool = False
    half_open: int = 0
    blocked: bool = False


def numbers_in(record: object) -> Record:
    """Return what of a stored record can be read: finite numbers by name."""
    found = record.items() if isinstance(record, dict) else ()
    return {
        str(name): float(number)
        for name, number in found
        if isinstance(number, int | float) and -_LARGEST < number < _LARGEST  # which NaN is not
    }


def checked(reply: Reply, request: Request) -> Reply:
    """Return `reply` if it can answer `request`.

    Raises:
        RecordError: A number in it is impossible; acting on it would let everything or nothing through.
    """
    numbers = (
        reply.count, reply.now, *reply.tats, reply.paused, reply.workers, reply.half_open, *reply.offsets,
    )  # fmt: skip
    sound = (
        all(-_LARGEST < number < _LARGEST for number in numbers)
        and len(reply.tats) == len(request.names)
        and len(reply.offsets) <= len(request.items)
        and 0 < reply.factor <= 1
        and 0 < reply.horizon <= _LONGEST * MICRO
        and all(offset <= reply.horizon + 1 for offset in reply.offsets)
        and min(reply.count, reply.workers) >= 1
        and reply.paused >= 0
    )
    if not sound:
        msg = f"the store answered with numbers that cannot be right: {reply!r}"
        raise RecordError(msg[:500])
    return reply


def exchange(record: Record, request: Request, clock: float) -> Reply:
    """Change `record` as `request` says, when the store's clock reads `clock`, and answer.

    Raises:
        RecordError: It is of another format.
    """
    if record.get("v", FORMAT if "n" not in record else 1) != FORMAT:
        msg = f"the record is of format {record.get('v', 1):g}, and this release of greenkit has {FORMAT}"
        raise RecordError(msg)
    lost = record.get("n", 0.0) < request.seen
    record["v"], record["n"] = FORMAT, max(record.get("n", 0.0), request.seen) + 1
    now, passed = _time(record, request, clock, lost=lost)
    factor = _paced(record, request, now, passed)
    intervals = _intervals(record, request, factor)
    tats = _settled(record, request, now, intervals, lost=lost)
    windows = _windows(record, request, clock, tats, lost=lost)
    until = 0.0 if request.resume else record.get("pause", 0.0)
    record["pause"] = until = max(until, now + request.pause if request.pause else 0.0)
    _half_open(record, request, now)
    workers, others = _workers(record, request.worker, now)
    horizon = HORIZON * MICRO
    if not request.size:  # a slot that is booked ahead is nobody's meanwhile
        horizon = min(_LONGEST * MICRO, max(horizon, _AT_ONCE * workers * max(0.0, record.get("s", 0.0))))
    offsets, held, full = _booked(
        record, request, now, tats, intervals, windows, until=until, horizon=horizon, others=others
    )
    record[f"w:{request.worker}"] = now
    record[f"h:{request.worker}"] = float(held)
    for place, name in enumerate(request.names):
        if place in windows:
            window = windows[place]
            record[f"t:{name}"] = window.end
            record[f"u:{name}"] = (tats[place] - window.start) / request.intervals[place]
        else:
            record[f"t:{name}"] = tats[place]
            record[f"i:{name}"] = intervals[place]
    return Reply(
        int(record["n"]), now, tuple(tats), max(0.0, until - now), factor, workers, horizon, offsets, full,
        int(record["half"]), bool(record["half"] and record["out"]),
    )  # fmt: skip


def _time(record: Record, request: Request, clock: float, *, lost: bool) -> tuple[float, float]:
    """Return the record's time, and how much of it has passed since the last request."""
    now, expected, last = clock + record.get("o", 0.0), request.expected, record.get("at", 0.0)
    if expected >= 0 and (lost or now > expected + _STEP * MICRO):
        now = expected
    now = max(now, last)  # it never goes back, whatever the clock or a process believes
    record["o"], record["at"] = now - clock, now
    return now, now - last if last else 0.0


def _half_open(record: Record, request: Request, now: float) -> None:
    """Keep after which pause one permit goes first ("half"), until when the rest wait, and if it is out."""
    number, until, out = record.get("half", 0.0), record.get("probe", 0.0), record.get("out", 0.0)
    if request.pause and request.asked:
        number = record["pauses"] = record.get("pauses", 0.0) + 1
        until = out = 0.0
    elif request.resume or (until and now >= until) or (request.passed and request.probe == number):
        number = until = out = 0.0
    elif request.probe == number:
        out = 0.0
    record["half"], record["probe"], record["out"] = number, until, out


def _booked(
    record: Record,
    request: Request,
    now: float,
    tats: list[float],
    intervals: Amounts,
    windows: dict[int, _Window],
    *,
    until: float,
    horizon: float,
    others: int,
) -> tuple[tuple[float, ...], int, bool]:
    """Book in `tats` what may go; return offsets, slots of this worker then, and whether some are missing."""
    held = request.held
    offsets: list[float] = []
    full = False
    for item in request.items:
        at = max(now, until)
        for place, (cost, burst) in enumerate(zip(item.costs, request.bursts, strict=True)):
            if cost and place not in windows:  # above the burst: when it is full
                at = max(at, tats[place] - max(0.0, burst - cost) * intervals[place])
        closed = False
        for place, window in windows.items():
            cost = item.costs[place]
            used = tats[place] + cost * request.intervals[place]
            # Nothing is booked over the boundary: what the next window has is not known before.
            if cost and (used > window.top or at - now >= window.left):
                at, closed = max(at, now + window.left), True
        full = bool(request.size) and held + others >= request.size
        missing = closed or full or bool(record["half"] and record["out"])
        if missing and not closed:
            at = max(at, now + _SLOT_RETRY * MICRO)
        # A nanosecond for rounding, or who comes back at the very instant is sent away.
        if not missing and at - now <= item.ahead * horizon + 0.001:
            offsets.append(at - now)
            held += 1
            if record["half"]:
                record["out"] = 1.0
                record["probe"] = record["probe"] or at + PROBE_TIME * MICRO
            takes = 0.0
            for place, cost in enumerate(item.costs):
                if cost and place in windows:
                    tats[place] += cost * request.intervals[place]
                elif cost:
                    tats[place] = max(tats[place], at) + cost * intervals[place]
                    takes = max(takes, cost * intervals[place])
            usual = max(0.0, record.get("s", takes))
            record["s"] = usual + (takes - usual) / _SMOOTH
            continue
        offsets.append(-1.0 - (at - now))
        if item.ahead:
            break
    return tuple(offsets), held, full


@dataclass(frozen=True, slots=True)
class _Window:
    """Hold a window by the calendar, by the clock of the store, and the highest state allowed in it."""

    start: float
    end: float
    left: float
    top: float


def _windows(
    record: Record, request: Request, clock: float, tats: list[float], *, lost: bool
) -> dict[int, _Window]:
    """Put the state of windows by the calendar into `tats`; return them by place."""
    windows = {}
    for place, name in enumerate(request.names):
        before, start, end, after = span = request.span(place)
        if not after:
            continue
        if clock < start:
            start, end = before, start
        elif clock >= end:
            start, end = end, after
        counted, used, step = (
            record.get(f"t:{name}", 0.0),
            record.get(f"u:{name}", 0.0),
            request.intervals[place],
        )
        if counted > end and counted in span[1:]:
            # The clock has stepped back over the boundary: what was used after it still is.
            start, end = span[span.index(counted) - 1], counted
        elif counted != end:
            used = 0.0
        tat = start + used * step
        if lost and start <= request.floors[place] < end:
            tat = max(tat, request.floors[place])
        tat = max(start, tat + request.deltas[place] * step)
        if request.left[place] >= 0:
            tat = max(tat, start + (request.bursts[place] - request.left[place]) * step)
        share = min(1.0, max(SLOWEST, record.get(f"c:{name}", 1.0)))
        tats[place] = tat = min(tat, end - 1_000.0)  # however large, a debt ends with its window
        top = start + request.bursts[place] * share * step * (1 + _ROUNDING)
        windows[place] = _Window(start, end, max(end - clock, 1.0), top)
    return windows


def _paced(record: Record, request: Request, now: float, passed: float) -> float:
    factor = min(1.0, max(SLOWEST, record.get("f", 1.0) + passed / MICRO * RECOVERY))
    if request.cut and now - record.get("cut", 0.0) >= CUT_INTERVAL * MICRO:
        factor = max(SLOWEST, factor * CUT)
        record["cut"] = now
    record["f"] = factor
    return factor


def _intervals(record: Record, request: Request, factor: float) -> Amounts:
    found = []
    for place, name in enumerate(request.names):
        if request.shares[place] >= 0:
            record[f"c:{name}"] = request.shares[place]
        share = min(1.0, max(SLOWEST, record.get(f"c:{name}", 1.0)))
        found.append(request.intervals[place] / (factor * share))
    return tuple(found)


def _settled(record: Record, request: Request, now: float, intervals: Amounts, *, lost: bool) -> list[float]:
    """Return the state per dimension, with all that is known of it but the items."""
    empty = request.back and now - record.get("back", 0.0) > _BACK * MICRO
    if request.back:
        record["back"] = now
    tats = []
    for place, interval in enumerate(intervals):
        tat = record.get(f"t:{request.names[place]}", now)
        before = record.get(f"i:{request.names[place]}", interval)
        if tat > now and before > 0:  # as many units are out as before, at the interval of now
            tat = now + (tat - now) * interval / before
        if lost:
            tat = max(tat, request.floors[place])
        if empty:
            tat = max(tat, now + request.bursts[place] * interval)
        delta = request.deltas[place]
        if delta:
            tat = (max(tat, now) if delta > 0 else tat) + delta * interval
        if request.left[place] >= 0:
            tat = max(tat, now + (request.bursts[place] - request.left[place]) * interval)
        tats.append(tat)
    return tats


def _workers(record: Record, worker: str, now: float) -> tuple[int, int]:
    """Return how many processes there are, and how many slots the others have; forget those long gone."""
    count, held = 1, 0
    for name in [name for name in record if name.startswith("w:")]:
        other = name[2:]
        if other == worker:
            continue
        if now - record[name] > WORKER_GONE * MICRO:
            del record[name]
            record.pop(f"h:{other}", None)
            continue
        count += 1
        held += int(record.get(f"h:{other}", 0.0))
    return count, held
