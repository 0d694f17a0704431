"""Read the words limits are written in, and know the windows that begin by the clock on the wall.

`"500/min"`, `"90_000/min burst 9_000"`, `"10_000/day"` become a `Rate`; an error shows the text with a caret
under the column that is wrong.

`"1000/day from 00:00 America/Los_Angeles"` is a window by the calendar: all of the amount may go at any time
in it, never more, and it is there again when the next one begins. Its state is one float, too: the beginning
of the window it was used in, in seconds since 2025, and after it a step for each unit used. So a state that
lies before the window of now is that of a full budget, and a clock that steps back over a boundary finds what
was used already.
"""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from datetime import time as time_of_day
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from greenkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock

__all__ = [
    "EPOCH",
    "WEEKDAYS",
    "Calendar",
    "Charge",
    "Rate",
    "Span",
    "Window",
    "Windows",
    "charged",
    "default_burst",
    "parse_rate",
    "period_shown",
    "shown",
    "step_of",
    "wall_of",
    "windows",
]

EPOCH = 1_735_689_600  # 2025-01-01 UTC, seconds
# Nominal, and the shortest: the clocks go forward in one of the days, and a February has 28.
_NOMINAL = {"day": 86_400.0, "week": 604_800.0, "month": 2_592_000.0}
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
        return _NOMINAL[self.unit]

    def span(self, wall: float) -> Span:
        """Return the windows around the instant `wall`, seconds since 2025."""
        day = datetime.fromtimestamp(wall + EPOCH, _zone(self.zone)).date()
        day = self._first(day)
        if self._instant(day) > wall:
            day = self._next(day, -1)
        days = (self._next(day, -1), day, self._next(day, 1), self._next(self._next(day, 1), 1))
        return Span(*[self._instant(boundary) for boundary in days])

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
    """Return how far one unit moves the state: seconds, exact in whole units, four amounts a window."""
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


_PERIODS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
}
_SHOWN = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "day", 604800.0: "week"}
_WANTED = "a period: s, min, h, day or week"
# Thousands in commas only where three digits follow each: "1,5" is a decimal in half of Europe.
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_COUNT = re.compile(r"\d+")
_WORD = re.compile(r"[^\W\d_]+")
_SPACE = re.compile(r"\s*")
_SCALE = re.compile(r"([kKMG])(?![^\W\d_])")
_SCALES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
# As providers write them: RPM, TPM, RPD, QPS; the first letter says of what, the last of how long.
_PER = re.compile(r"[a-z]p([smhd])", re.IGNORECASE)
_FROM = re.compile(
    r"""\s*(?:/|per\b)\s*(?P<count>\d+)?\s*(?P<unit>[^\W\d_]+)\s+from\b\s*
    (?P<rest>(?:(?P<day>[^\W\d_]+)\s+)?(?:(?P<hour>\d{1,2}):(?P<minute>\d\d)(?:\s+(?P<zone>[\w+/-]+))?\s*$)?)""",
    re.VERBOSE | re.IGNORECASE,
)
_UNITS = {"d": "day", "days": "day", "w": "week", "weeks": "week", "months": "month"}
_MOST_PER_SECOND = 1e9
# What may go at once when nobody said, a second's worth at the most where servers count by the second.
_OF_A_SECOND = 0.05
_SLOW_BURST = 5.0


def default_burst(amount: float, period: float) -> float:
    """Return what may go at once when nobody said.

    Where a second or more brings one unit, as many as it brings seconds between two, at most 5 and never
    more than the amount: no server counts those by the second, and "3/min" is three. Where a second brings
    more, a twentieth of what it brings, at least 1: Azure refuses the eleventh of 600 a minute within a
    second, OpenAI may hold 60,000 a minute as 1,000 a second, Anthropic 60 a minute as one a second.
    """
    apart = period / amount
    return min(amount, max(1.0, _OF_A_SECOND / apart, min(_SLOW_BURST, apart)))


@dataclass(frozen=True, slots=True)
class Rate:
    """Say how much of something may go in how long, and how much of it at once.

    Attributes:
        amount: Units per `period`; more than 0, may be fractional.
        period: Seconds, more than 0.
        burst: Units that may go at once after idleness, more than 0. Default: a twentieth of what a second
            brings, at least 1; of slower rates as many as a unit takes seconds to come back, at most 5; never
            more than the amount (`"200/s"` → 10, `"500/min"` → 1, `"10/min"` → 5, `"3/min"` → 3).
        said: The burst was given, so no single cost may exceed it.
        largest: Units a single permit may cost: the burst where it was given; else the amount, at least 1,
            and one that costs more than the burst goes when the budget is full.
        calendar: When windows begin by the clock on the wall; all of the amount may go at once in each.

    Raises:
        ConfigError: A value is out of its range.
    """

    amount: float
    period: float
    burst: float = math.nan
    calendar: Calendar | None = None
    said: bool = field(init=False, repr=False, compare=False)
    largest: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.amount < math.inf:
            msg = f"amount must be more than 0, not {self.amount!r}; to stop everything use pause()"
            raise ConfigError(msg)
        if not 0 < self.period < math.inf:
            msg = f"period must be more than 0 seconds, not {self.period!r}"
            raise ConfigError(msg)
        if self.amount / self.period > _MOST_PER_SECOND:
            msg = f"{self.amount:g} in {self.period:g} s is finer than a clock can tell; leave this limit out"
            raise ConfigError(msg)
        said = not math.isnan(self.burst)
        if self.calendar is not None:
            if said or self.period != self.calendar.period:
                msg = f"{self.calendar} lets all of it go whenever in its {self.calendar.unit}: no burst"
                raise ConfigError(msg)
            object.__setattr__(self, "burst", self.amount)
        elif not said:
            object.__setattr__(self, "burst", default_burst(self.amount, self.period))
        if not 0 < self.burst < math.inf:
            msg = f"burst must be more than 0, not {self.burst:g}: nothing could ever pass"
            raise ConfigError(msg)
        object.__setattr__(self, "said", said)
        object.__setattr__(self, "largest", self.burst if said or self.calendar else max(1.0, self.amount))

    def __str__(self) -> str:
        """Return it as people write it, without the burst: `500/min`."""
        if self.calendar is not None:
            return f"{shown(self.amount)}/{self.calendar.unit} {self.calendar}"
        return f"{shown(self.amount)}/{period_shown(self.period)}"


def shown(number: float) -> str:
    """Return a number as people write it: no exponent before a million million, no trailing zeros."""
    return f"{number:.12g}"


def period_shown(seconds: float) -> str:
    """Return a period as people write it: `min`, `10s`, `2h`."""
    for unit in sorted(_SHOWN, reverse=True):
        if seconds >= unit and seconds % unit == 0:
            return f"{int(seconds / unit) if seconds != unit else ''}{_SHOWN[unit]}"
    return f"{shown(seconds)}s"


def parse_rate(text: str) -> Rate:
    """Return the rate `text` describes: AMOUNT/PERIOD, then perhaps `burst AMOUNT` or `from TIME ZONE`.

    An amount may hold underscores, commas between thousands, a decimal point, an exponent, and k, M or G
    after it. A period is s, min, h, day or week in any case, with a count before it if need be (`"100/10s"`);
    `"500 rpm"`, `"10k TPM"` and `"500 per minute"` are read, too, and a `$` before an amount of money.
    Windows of a day, a week or a month begin by the clock with `from 00:00 America/Los_Angeles`, `from Monday
    09:00 UTC`; without a zone it is UTC.

    Raises:
        ConfigError: The text is not a rate; the message shows the column.

    Switches: never.
    """
    return _Reader(str(text)).rate()


class _Reader:
    """Go through one text from left to right; `at` is the column read next."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def rate(self) -> Rate:
        start = self._skip()
        amount = self._number("an amount such as 500")
        period_at = self.at
        calendar = self._calendar()
        if calendar is not None:
            try:
                return Rate(amount, calendar.period, calendar=calendar)
            except ConfigError as error:
                self._fail(start, str(error))
        self.at = period_at
        period = self._period()
        burst = math.nan
        burst_at = self._skip()
        if burst_at < len(self.text):
            if self.text[burst_at] in ",;+&":
                self._fail(
                    burst_at, 'a text holds one limit; give several as a list: ["500/min", "10_000/day"]'
                )
            if self._take(_WORD).lower() != "burst":
                self._fail(burst_at, 'expected "burst AMOUNT", "from TIME ZONE" or the end')
            burst_at = self._skip()
            burst = self._number("a burst such as 25")
            if self._skip() < len(self.text):
                self._fail(self.at, "expected the end")
            if burst <= 0:
                self._fail(burst_at, "a burst of 0 could never let anything pass")
        try:
            return Rate(amount, period, burst)
        except ConfigError as error:
            self._fail(start, str(error))

    def _calendar(self) -> Calendar | None:
        """Return when windows begin, or None when the text says nothing of that."""
        found = _FROM.match(self.text, self.at)
        if found is None:
            return None
        count, unit, weekday, hour, minute, zone = found.group(
            "count", "unit", "day", "hour", "minute", "zone"
        )
        unit = _UNITS.get(unit.lower(), unit)
        if count not in {None, "1"} or unit not in {"day", "week", "month"}:
            at = found.start("count" if count else "unit")
            self._fail(at, "only a day, a week or a month begins by the clock; leave out what is after from")
        if hour is None or int(hour) > 23 or int(minute) > 59:
            self._fail(found.start("rest"), 'expected a time of day and a zone, such as "from 00:00 UTC"')
        named = [
            number for number, name in enumerate(WEEKDAYS) if weekday and name.startswith(weekday.lower())
        ]
        if weekday and (unit != "week" or len(named) != 1 or len(weekday) < 3):
            why = f'"{weekday}" is no day of the week' if unit == "week" else f"a {unit} begins on no weekday"
            self._fail(found.start("day"), why)
        try:
            return Calendar(unit, int(hour), int(minute), zone or "UTC", named[0] if named else 0)
        except ConfigError as error:
            self._fail(found.start("zone"), str(error))

    def _period(self) -> float:
        start = self._skip()
        if self.text[start : start + 1] == "/":
            self.at += 1
        else:
            word = self._take(_WORD)
            short = _PER.fullmatch(word)
            if short:
                return _PERIODS[short.group(1).lower()]
            if word.lower() != "per":
                what = f', not "{word}"' if word else ""
                self._fail(start, f'expected "/" and {_WANTED}{what}')
        start = self._skip()
        count = float(self._take(_COUNT) or 1)
        word_at = self._skip()
        word = self._take(_WORD)
        seconds = _PERIODS.get(word.lower())
        if seconds is None or word == "M":
            self._fail(word_at, _no_period(word))
        if count == 0:
            self._fail(start, "a period of 0 is none")
        return count * seconds

    def _number(self, wanted: str) -> float:
        start = self._skip()
        if self.text[start : start + 1] == "$":
            self.at += 1
        digits = self._take(_NUMBER)
        if not digits:
            self._fail(start, f"expected {wanted}")
        if self.text[self.at : self.at + 1] == "," and not digits.count(","):
            self._fail(self.at, 'a comma stands between thousands, such as "1,000"; a decimal has a point')
        at = self._skip()
        scale = _SCALE.match(self.text, at)
        if scale is not None:
            self.at = scale.end()
        elif self.text[at : at + 1] == "m" and not self.text[at + 1 : at + 2].isalpha():
            self._fail(at, '"m" could be a thousandth or a million; write M for a million')
        number = float(digits.replace("_", "").replace(",", "")) * (_SCALES[scale.group(1)] if scale else 1.0)
        if number == math.inf:
            self._fail(start, "this is more than a number can hold")
        return number

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match.group()

    def _skip(self) -> int:
        self._take(_SPACE)
        return self.at

    def _fail(self, column: int, why: str) -> NoReturn:
        caret = " " * column + f"^ column {column + 1}"
        msg = f'not a limit: {why}\n    {self.text}\n    {caret}\nlike "500/min burst 25"'
        raise ConfigError(msg) from None


def _no_period(word: str) -> str:
    if not word:
        return f"expected {_WANTED}"
    if word == "M":
        return '"M" could be a minute or a month; write min, or a number of days such as 30d'
    if word.lower() in {"mo", "mon", "month", "months", "y", "yr", "year", "years"}:
        return f'"{word}" has no fixed length; write a number of days such as 30d'
    if word.lower() in {"ms", "us", "ns"}:
        return f'"{word}" is finer than a period can be; write the same rate by the second'
    # The longest part that still begins a period: what follows it is at fault.
    right = next(
        (n for n in range(len(word), 0, -1) if any(w.startswith(word[:n].lower()) for w in _PERIODS)), 0
    )
    where = f'the "{word[right]}" after "{word[:right]}"' if 0 < right < len(word) else f'"{word}"'
    return f"expected {_WANTED}; {where} is at fault"


Windows = str | Rate | Sequence[str | Rate]
# Names of options here or of `permit()` and the like: such a dimension could not be given a cost.
_TAKEN = frozenset(
    [
        "clock",
        "concurrency",
        "deadline",
        "feedback",
        "key",
        "max_wait",
        "most",
        "name",
        "on_backend_error",
        "priority",
        "processes",
        "retry_on",
        "retry_share",
        "settle",
        "shadow",
        "share",
        "strict",
        "timeout",
    ]
)
# Dimensions everybody has, and what they are called by mistake. Any other name is a dimension of its own, of
# which a permit costs 0 unless told otherwise: a typing mistake would limit nothing.
_USUAL = ("requests", "tokens")
_MEANT = {
    **dict.fromkeys(("rpm", "rps", "rpd", "rph", "qps", "qpm", "calls_per_minute", "rate"), "requests"),
    **dict.fromkeys(("tpm", "tps", "tpd", "tph"), "tokens"),
}


def windows(name: str, given: Windows) -> tuple[Rate, ...]:
    """Return the limits of the dimension `name`, the shortest period first.

    Raises:
        ConfigError: One cannot be read, there is none, or two are for the same period.
        TypeError: The name is an option's, or nearly that of another dimension.
    """
    if name in _TAKEN or not name.isidentifier():
        msg = f"{name!r} cannot name a dimension: it is an option of Limiter or permit()"
        raise TypeError(msg)
    usual = _MEANT.get(name.lower()) or next(iter(difflib.get_close_matches(name, _USUAL, 1, 0.85)), name)
    if usual != name:
        msg = (
            f"{name}={given!r} looks like {usual}=, and as a dimension of its own it would limit nothing: "
            f"a permit costs none of it unless told otherwise. Write {usual}=, or choose another name"
        )
        raise TypeError(msg)
    several = given if isinstance(given, list | tuple) else [given]
    rates = [_rate(name, limit) for limit in several]
    if not rates:
        msg = f'{name}=[] limits nothing; give at least one window, such as ["500/min", "10_000/day"]'
        raise ConfigError(msg)
    rates.sort(key=lambda rate: (rate.period, rate.calendar is not None))
    for shorter, longer in pairwise(rates):
        if (shorter.period, shorter.calendar) == (longer.period, longer.calendar):
            msg = f"{name} has two windows of the same period, {shorter} and {longer}; keep the one you mean"
            raise ConfigError(msg)
    return tuple(rates)


def _rate(name: str, given: object) -> Rate:
    if isinstance(given, Rate):
        return given
    if isinstance(given, str):
        return parse_rate(given)
    msg = f'{name} must be a limit such as "500/min", or a list of them, not {given!r}'
    raise TypeError(msg)
