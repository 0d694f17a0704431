"""Slower when the server says so, back to the configured speed little by little (AIMD).

Pure state and arithmetic: the budget holds its lock around it and applies what it answers.

Source: additive increase, multiplicative decrease, as in TCP (Chiu and Jain 1989).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CUT", "ONE_NEWS", "RECOVERY", "SLOWEST", "Crowd", "Pace"]

# One burst of 429s is one piece of news: cut once for all that are out.
ONE_NEWS = 1.0
CUT = 0.8
SLOWEST = 0.02
# Of the configured rate, per second. From a half to the whole in under a minute.
RECOVERY = 0.01
# A key nobody has used for so long (seconds) need not remember what the server said its limits are.
_CEILINGS_LAST = 60.0
# New rules are made only when they differ by so much.
_STEP = 0.005


class Pace:
    """Know which share of the configured rate is to be used.

    Attributes:
        factor: What 429s left of all rates, at most 1.
    """

    __slots__ = ("_at", "_ceilings", "_cut_at", "_told_at", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self._at = self._cut_at = self._told_at = -math.inf
        self._ceilings: dict[str, float] = {}

    @property
    def slower(self) -> bool:
        """Tell whether any dimension runs below its configured rate."""
        return self.factor < 1.0 or bool(self._ceilings)

    def matters(self, now: float) -> bool:
        """Tell whether anything is worth remembering that the next answer of the server would not say again.

        Switches: never.
        """
        return self.factor < 1.0 or (bool(self._ceilings) and now - self._told_at < _CEILINGS_LAST)

    def of(self, name: str, *, by_calendar: bool = False) -> float:
        """Return the share for one rule: what 429s left of what the server says its limit is.

        Switches: never.
        """
        return (1.0 if by_calendar else self.factor) * self._ceilings.get(name, 1.0)

    def ceil(self, shares: Mapping[str, float], now: float) -> bool:
        """Adopt the server's own limits as shares of ours, never above 1; tell whether that changed.

        Switches: never.
        """
        before = dict(self._ceilings)
        self._told_at = now
        for name, share in shares.items():
            if share < 1.0:
                self._ceilings[name] = max(SLOWEST, share)
            else:
                self._ceilings.pop(name, None)
        return self._ceilings != before

    def cut(self, now: float) -> bool:
        """Slow down after a 429 at `now`; tell whether that changed anything.

        Switches: never.
        """
        if now - self._cut_at < ONE_NEWS:
            return False
        self._cut_at = self._at = now
        self.factor = max(SLOWEST, self.factor * CUT)
        return True

    def recover(self, now: float) -> bool:
        """Speed up by the time that has passed; tell whether that changed anything.

        Switches: never.
        """
        gained = min(1.0 - self.factor, (now - self._at) * RECOVERY)
        if gained < _STEP and self.factor + gained < 1.0:
            return False
        changed = self.factor < 1.0
        self.factor = min(1.0, self.factor + gained)
        self._at = now
        return changed


class Crowd:
    """Find how many calls at once a server likes, between two bounds.

    Doubles with every round of successes until the first trouble, then grows by one a round; trouble takes a
    fifth away, once a second.

    Args:
        least: Never fewer, at least 1; also where it begins.
        most: Never more.

    Attributes:
        size: How many at once now.
    """

    __slots__ = ("_cut_at", "_exact", "_growing", "least", "most", "size")

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most
        self.size = least
        self._exact = float(least)
        self._growing = True
        self._cut_at = -math.inf

    def succeeded(self, held: int) -> bool:
        """Take in a call that went well while `held` were out; tell whether the size changed.

        Switches: never.
        """
        if held < self.size:
            return False  # the size was no obstacle, so it has not been tried
        self._exact = min(float(self.most), self._exact + (1.0 if self._growing else 1.0 / self._exact))
        return self._round()

    def failed(self, now: float) -> bool:
        """Take in a call the server was too busy for; tell whether the size changed.

        Switches: never.
        """
        if now - self._cut_at < ONE_NEWS:
            return False
        self._growing = False
        self._cut_at = now
        self._exact = max(float(self.least), self._exact * CUT)
        return self._round()

    def _round(self) -> bool:
        before, self.size = self.size, int(self._exact)
        return self.size != before
