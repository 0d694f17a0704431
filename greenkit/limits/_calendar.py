"""Windows that begin by the clock on the wall: "1000/day from 00:00 America/Los_Angeles".

All of the amount may go whenever in a window, never more, and it is there again when the next one begins.
The state of such a budget is one float like that of the others: the beginning of the window it was used in,
in seconds since 2025, and after it a step for each unit used. So a state that lies before the window of now
is that of a full budget, and a clock that steps back over a boundary finds what was used already.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from datetime import time as time_of_day
from functools import lru_cache
from typing import TYPE_CHECKING

from greenkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock

__all__ = ["EPOCH", "WEEKDAYS", "Calendar", "Charge", "Span", "Window", "charged", "step_of", "wall_of"]

EPOCH = 1_735_689_600  # 2025-01-01 UTC, seconds
# Nominal, and the shortest: the clocks go forward in one of the days, and a February has 28.
_PERIODS = {"day": 86_400.0, "week": 604_800.0, "month": 2_592_000.0}
_SHORTEST = {"day": 22 * 3600.0, "week": 166 * 3600.0, "month": 670 * 3600.0}
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class Span:
    """Hold the window there is now, the one before and the one after, by their boundaries.

    Attributes:
        before: Beginning of the one before, seconds since 2025, and so are the others.
        start: Of the window of now.
        end: Of it; the next one's beginning.
        after: End of the next one.
    """

    before: float
    start: float
    end: float
    after: float


@dataclass(frozen=True, slots=True)
class Calendar:
    """Begin a window each day, week or month at a time of day in a zone.

    Attributes:
        unit: "day", "week" or "month".
        hour: Of the day, 0 to 23.
        minute: Of the hour.
        zone: Name in the IANA database, such as "America/Los_Angeles"; "UTC" when not said.
        weekday: Of a week, 0 for Monday.

    Raises:
        ConfigError: There is no such zone here.
    """

    unit: str
    hour: int
    minute: int
    zone: str = "UTC"
    weekday: int = 0

    def __post_init__(self) -> None:
        _zone(self.zone)

    def __str__(self) -> str:
        day = f"{WEEKDAYS[self.weekday].title()} " if self.unit == "week" else ""
        return f"from {day}{self.hour:02}:{self.minute:02} {self.zone}"

    @property
    def period(self) -> float:
        """Return how long a window is, the change of clocks and the length of months aside."""
        return _PERIODS[self.unit]

    def span(self, wall: float) -> Span:
        """Return the windows around the instant `wall`, seconds since 2025."""
        day = datetime.fromtimestamp(wall + EPOCH, _zone(self.zone)).date()
        day = self._first(day)
        if self._instant(day) > wall:
            day = self._next(day, -1)
        days = (self._next(day, -1), day, self._next(day, 1), self._next(self._next(day, 1), 1))
        return Span(*[self._instant(one) for one in days])

    def _first(self, day: date) -> date:
        """Return the day on which the window begins that `day`, or its beginning, is in."""
        if self.unit == "week":
            return day - timedelta((day.weekday() - self.weekday) % 7)
        return day.replace(day=1) if self.unit == "month" else day

    def _next(self, day: date, sign: int) -> date:
        if self.unit == "month":
            return (day + timedelta(31 if sign > 0 else -1)).replace(day=1)
        return day + timedelta(sign * (7 if self.unit == "week" else 1))

    def _instant(self, day: date) -> float:
        # A time the clocks leave out is as far after midnight as ever; one they show twice is the first.
        moment = datetime.combine(day, time_of_day(self.hour, self.minute), _zone(self.zone))
        return moment.timestamp() - EPOCH


class Charge(float):
    """Be a cost that knows when it was charged: what is given back later is not that of another window.

    Attributes:
        at: On the wall, seconds since 2025.
        origin: The cost it was made of.
    """

    __slots__ = ("at", "origin")

    at: float
    origin: float

    def __new__(cls, cost: float, at: float) -> Charge:
        """Return `cost` as one charged at `at`."""
        charge = super().__new__(cls, cost)
        charge.at, charge.origin = at, cost
        return charge


def charged(costs: tuple[float, ...], clock: Clock, *, waited: bool) -> tuple[float, ...]:
    """Return `costs`, which were granted just now, with the time of that.

    One who waited may run a while after it was granted, and is taken to have been granted a second ago: so
    nothing of a window that has just ended is given back in the one that begins.
    """
    at = wall_of(clock)() - EPOCH - (1.0 if waited else 0.0)
    return tuple([Charge(cost, at) for cost in costs])


class Window:
    """Tell in which window of a calendar a state is now.

    Args:
        calendar: When windows begin.
        clock: Where time comes from, that on the wall, too.
    """

    __slots__ = ("_calendar", "_now", "_span", "_wall")

    def __init__(self, calendar: Calendar, clock: Clock) -> None:
        self._calendar = calendar
        self._now = clock.now
        self._wall = wall_of(clock)
        self._span: Span | None = None

    @property
    def span(self) -> Span:
        """Return the windows around now."""
        wall, span = self._wall() - EPOCH, self._span
        if span is None or not span.start <= wall < span.end:
            span = self._span = self._calendar.span(wall)
        return span

    def span_at(self, wall: float) -> Span:
        """Return the windows around an instant, seconds since 2025."""
        return self._calendar.span(wall)

    def of(self, tat: float) -> tuple[float, float, float]:
        """Return (the state `tat` as of now, beginning of its window, end of it)."""
        span = self.span
        if tat < span.start:
            return span.start, span.start, span.end
        if tat < span.end:
            return tat, span.start, span.end
        # The clock has stepped back since; a state from further ahead is of a clock that was wrong.
        if tat < span.after:
            return tat, span.end, span.after
        return span.start, span.start, span.end

    def instant(self, end: float) -> float:
        """Return the clock reading, not of the wall, from which a window that ends at `end` is over."""
        # A microsecond more: the two clocks round differently, and who comes a moment early has come in vain.
        return self._now() + (end - (self._wall() - EPOCH)) + 1e-6


def step_of(calendar: Calendar, amount: float) -> float:
    """Return how far one unit moves the state: seconds, exact in whole units, four amounts within a window.
    """
    return math.ldexp(1.0, math.floor(math.log2(_SHORTEST[calendar.unit] / 4 / amount)))


def wall_of(clock: Clock) -> Callable[[], float]:
    """Return what tells the time on the wall, in seconds since 1970, of the machine or of a test's clock."""
    wall: Callable[[], float] = getattr(clock, "wall", time.time)
    return wall


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    # late: only limits by the calendar need it, and it looks for its files where it is loaded
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        msg = (
            f"{name!r} is no time zone this machine knows; write one such as UTC or America/Los_Angeles. "
            "Where none is known at all: pip install tzdata"
        )
        raise ConfigError(msg) from error
