"""Make rules of what people write: one limit of a dimension, several windows of it, or one by the calendar.

The windows of a dimension are all charged the same cost, and all of them have to let it go.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from greenkit._clock import MONOTONIC
from greenkit.errors import ConfigError
from greenkit.limits._calendar import Charge
from greenkit.limits._gcra import ROUNDING, Rule, Rules
from greenkit.limits._rates import Rate, parse_rate

if TYPE_CHECKING:
    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts

__all__ = ["CalendarRules", "Windows", "rules_of", "windows"]

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
    rates = [_rate(name, one) for one in several]
    if not rates:
        msg = f'{name}=[] limits nothing; give at least one window, such as ["500/min", "10_000/day"]'
        raise ConfigError(msg)
    rates.sort(key=lambda rate: (rate.period, rate.calendar is not None))
    for one, other in pairwise(rates):
        if (one.period, one.calendar) == (other.period, other.calendar):
            msg = f"{name} has two windows of the same period, {one} and {other}; keep the one that is meant"
            raise ConfigError(msg)
    return tuple(rates)


def rules_of(rates: Mapping[str, Sequence[Rate]], *, strict: bool, clock: Clock = MONOTONIC) -> Rules:
    """Return the rules for the windows of all dimensions.

    The shortest window has the name of its dimension, so that in a shared record a release with one window
    and one with several have that in common. The others are named by their period, too.

    Raises:
        ConfigError: Strict leaves nothing of a limit, or nothing could ever pass.
    """
    rules = []
    for name, several in rates.items():
        plain = next((rate for rate in several if rate.calendar is None), None)
        for rate in several:
            window = f"{rate.calendar.unit} {rate.calendar}" if rate.calendar else f"{rate.period:g}"
            rule = Rule(name if rate is plain else f"{name}@{window}", rate, strict, clock)
            if name == "requests" and rule.largest < 1:
                msg = f"requests {rate} has a burst of {rule.burst:g}, and each request costs 1: never"
                raise ConfigError(msg)
            rules.append(rule)
    by_calendar = any(rule.window is not None for rule in rules)
    return CalendarRules(rules) if by_calendar else Rules(rules)


def _rate(name: str, given: object) -> Rate:
    if isinstance(given, Rate):
        return given
    if isinstance(given, str):
        return parse_rate(given)
    msg = f'{name} must be a limit such as "500/min", or a list of them, not {given!r}'
    raise TypeError(msg)


# Of an amount: fractions of units come out a little more than they are.
_ROUNDING = 1e-9


class CalendarRules(Rules):
    """Decide as `Rules` does, over windows by the calendar as well.

    Args:
        rules: One per window of each dimension, in the order states and costs are given in.
    """

    __slots__ = ("_tops", "_windows")

    calendars = True

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__(rules)
        self._windows = [rule.window for rule in self.rules]
        self._tops = [rule.burst * rule.interval * (1 + _ROUNDING) for rule in self.rules]

    def decide(self, tats: Amounts, costs: Amounts, now: float, *, credit: float) -> Amounts | None:
        """As `Rules.decide()`; all of a window's amount may go whenever in it."""
        floor, latest = now - credit, now + ROUNDING
        granted = []
        for place, cost in enumerate(costs):
            tat, window = tats[place], self._windows[place]
            if window is None:
                after = max(tat, floor) + cost * self._intervals[place]
                late = after > latest + self._reaches[place] and (cost <= self._bursts[place] or tat > latest)
            else:
                used, start, _ = window.of(tat)
                after = used + cost * self._intervals[place]
                late = after > start + self._tops[place]
            if late and cost:
                return None
            granted.append(after)
        return tuple(granted)

    def earliest(self, tats: Amounts, costs: Amounts) -> float:
        """As `Rules.earliest()`; what is used up is there again when the next window begins."""
        earliest = -math.inf
        for place, cost in enumerate(costs):
            window = self._windows[place]
            if not cost:
                continue
            if window is None:
                rest = self._bursts[place] - cost
                instant = tats[place] - max(0.0, rest) * self._intervals[place]
            else:
                used, start, end = window.of(tats[place])
                over = used + cost * self._intervals[place] > start + self._tops[place]
                instant = window.instant(end) if over else -math.inf
            earliest = max(earliest, instant)
        return earliest

    def settle(
        self, tats: Amounts, before: Amounts, costs: Mapping[str, float], now: float
    ) -> tuple[Amounts, Amounts]:
        """As `Rules.settle()`; what was charged in a window that is over is not given back in this one."""
        instants, after = super().settle(tats, before, costs, now)
        settled, costs_now = list(instants), list(after)
        for place, window in enumerate(self._windows):
            if window is None:
                continue
            units, charged = after[place] - before[place], before[place]
            used, start, end = window.of(tats[place])
            if isinstance(charged, Charge):
                costs_now[place] = Charge(after[place], charged.at)
                if units < 0 and charged.at < start:
                    costs_now[place], units = charged, 0.0
            settled[place] = _within(start, used + units * self._intervals[place], end)
        return tuple(settled), tuple(costs_now)

    def taken_over(self, tats: Amounts, old: Rules, now: float) -> Amounts:
        """As `Rules.taken_over()`: as many units are used of the window."""
        instants = list(super().taken_over(tats, old, now))
        for place, window in enumerate(self._windows):
            was = old.rules[place]
            if window is None:
                if was.window is not None:
                    instants[place] = -math.inf
            elif was.name == self.rules[place].name:
                used, start, end = window.of(tats[place])
                instants[place] = _within(
                    start, start + (used - start) / was.interval * self._intervals[place], end
                )
            else:
                instants[place] = -math.inf
        return tuple(instants)

    def limited_to(self, tats: Amounts, available: Mapping[str, float], now: float) -> Amounts:
        """As `Rules.limited_to()`."""
        instants = list(super().limited_to(tats, available, now))
        for place, window in enumerate(self._windows):
            if window is None:
                continue
            used, start, _ = window.of(tats[place])
            left = available.get(self.names[place], math.inf)
            out = max(0.0, self._bursts[place] - max(0.0, left))
            instants[place] = max(used, start + out * self._intervals[place])
        return tuple(instants)

    def idle(self, tats: Amounts, now: float) -> bool:
        """As `Rules.idle()`."""
        return all(
            tat <= now if window is None else window.of(tat)[0] <= window.of(tat)[1]
            for tat, window in zip(tats, self._windows, strict=True)
        )

    def behind(self, tats: Amounts, ahead: Amounts, start: float) -> Amounts:
        """As `Rules.behind()`."""
        instants = list(super().behind(tats, ahead, start))
        for place, window in enumerate(self._windows):
            if window is not None:
                used, start, end = window.of(tats[place])
                instants[place] = _within(start, used + ahead[place] * self._intervals[place], end)
        return tuple(instants)


def _within(start: float, state: float, end: float) -> float:
    """Return the state, or the one next to it that is of this window: however large, a debt ends with it."""
    return max(start, min(state, end - 0.001))
