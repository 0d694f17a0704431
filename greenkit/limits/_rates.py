"""Read the words limits are written in: `"500/min"`, `"90_000/min burst 9_000"`, `"10_000/day"`.

Pure text to value; an error shows the text with a caret under the column that is wrong.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import NoReturn

from greenkit.errors import ConfigError
from greenkit.limits._calendar import WEEKDAYS, Calendar

__all__ = ["Rate", "default_burst", "parse_rate", "period_shown", "shown"]

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
