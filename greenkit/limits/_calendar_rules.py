"""The arithmetic of limits some of which begin anew by the calendar; see `_calendar` for their state.

Beside `Rules`, which is the same without them, because that runs on every permit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from greenkit.limits._calendar import Charge
from greenkit.limits._gcra import ROUNDING, Rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greenkit.limits._gcra import Amounts, Rule

__all__ = ["CalendarRules"]

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
        """As `Rules.decide()`; all of a window's amount may go whenever in it. Switches: never."""
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
        """As `Rules.earliest()`; what is used up is there again when the next window begins.

        Switches: never.
        """
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
        """As `Rules.settle()`; what was charged in a window that is over is not given back in this one.

        Switches: never.
        """
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
        """As `Rules.taken_over()`: as many units are used of the window. Switches: never."""
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
        """As `Rules.limited_to()`. Switches: never."""
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
        """As `Rules.idle()`. Switches: never."""
        return all(
            tat <= now if window is None else window.of(tat)[0] <= window.of(tat)[1]
            for tat, window in zip(tats, self._windows, strict=True)
        )

    def behind(self, tats: Amounts, ahead: Amounts, start: float) -> Amounts:
        """As `Rules.behind()`. Switches: never."""
        instants = list(super().behind(tats, ahead, start))
        for place, window in enumerate(self._windows):
            if window is not None:
                used, start, end = window.of(tats[place])
                instants[place] = _within(start, used + ahead[place] * self._intervals[place], end)
        return tuple(instants)


def _within(start: float, state: float, end: float) -> float:
    """Return the state, or the one next to it that is of this window: however large, a debt ends with it."""
    return max(start, min(state, end - 0.001))
