"""Read the words limits are written in: `"500/min"`, `"90_000/min burst 9_000"`, `"10_000/day"`.

Pure text to value; an error shows the text with a caret under the column that is wrong.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NoReturn

from greenkit.errors import ConfigError

__all__ = ["Rate", "parse_rate"]

_PERIODS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_NUMBER = re.compile(r"\d[\d_]*(?:\.\d+)?")
_COUNT = re.compile(r"\d+")
_WORD = re.compile(r"[A-Za-z]+")
_SPACE = re.compile(r"\s*")

# What a minute's limit may hand out at once when nobody said: a full minute's burst is what
# draws the first 429 from servers that count in smaller windows than they advertise.
_DEFAULT_BURST = 0.05
_MOST_PER_SECOND = 1e9


@dataclass(frozen=True, slots=True)
class Rate:
    """Say how much of something may go in how long, and how much of it at once.

    Attributes:
        amount: Units per `period`; more than 0, may be fractional.
        period: Seconds, more than 0.
        burst: Units that may go at once after idleness, more than 0. Default: 5 % of `amount`,
            whatever the period, and at least 1 (`"200/s"` → 10, `"500/min"` → 25, `"1/day"` → 1).

    Raises:
        ConfigError: A value is out of its range.
    """

    amount: float
    period: float
    burst: float = math.nan

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
        if math.isnan(self.burst):
            object.__setattr__(self, "burst", max(1.0, _DEFAULT_BURST * self.amount))
        if not 0 < self.burst < math.inf:
            msg = f"burst must be more than 0, not {self.burst:g}: nothing could ever pass"
            raise ConfigError(msg)


def parse_rate(text: str) -> Rate:
    """Return the rate `text` describes: AMOUNT/PERIOD, then perhaps `burst AMOUNT`.

    Amounts may hold underscores and a decimal point. A period is s, min, h or day, with a
    count before it if need be (`"100/10s"`).

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
        self._expect_slash()
        period = self._period()
        burst = math.nan
        burst_at = self._skip()
        if burst_at < len(self.text):
            if self._take(_WORD) != "burst":
                self._fail(burst_at, 'expected "burst AMOUNT" or the end')
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

    def _expect_slash(self) -> None:
        if self._skip() >= len(self.text) or self.text[self.at] != "/":
            self._fail(self.at, 'expected "/" and a period: s, min, h or day')
        self.at += 1

    def _period(self) -> float:
        start = self._skip()
        count = float(self._take(_COUNT) or 1)
        word_at = self._skip()
        seconds = _PERIODS.get(self._take(_WORD))
        if seconds is None:
            self._fail(word_at, "expected a period: s, min, h or day")
        if count == 0:
            self._fail(start, "a period of 0 is none")
        return count * seconds

    def _number(self, wanted: str) -> float:
        start = self._skip()
        digits = self._take(_NUMBER)
        if not digits:
            self._fail(start, f"expected {wanted}")
        return float(digits.replace("_", ""))

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
