"""Additive increase, multiplicative decrease: at which pace, and how many at once. Pure state and arithmetic.

Whoever asks holds its own lock around it and applies the answer.

Source: Chiu and Jain 1989, as in TCP.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CUT", "CUT_INTERVAL", "RECOVERY", "SLOWEST", "AdaptiveSize", "Pace"]

# Seconds. A burst of 429s answers calls that left at one pace: cut once for all of them.
CUT_INTERVAL = 1.0
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
        if now - self._cut_at < CUT_INTERVAL:
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


class AdaptiveSize:
    """Find how many calls at once the other side bears, between two bounds.

    Doubles with every round of successes until the first trouble, then grows by one a round; a round with
    trouble takes a fifth away. Slow start is that of RFC 5681.

    Args:
        least: Never fewer, at least 1.
        most: Never more.
        start: Where it begins; by default with the fewest.

    Attributes:
        size: How many at once now.
    """

    __slots__ = ("_cut_at", "_exact", "_growing", "least", "most", "size")

    def __init__(self, least: int, most: int, *, start: float | None = None) -> None:
        self.least = least
        self.most = most
        self._exact = float(least) if start is None else max(float(least), start)
        self.size = int(self._exact)
        self._growing = True
        self._cut_at = -math.inf

    def succeeded(self, *, full: bool) -> bool:
        """Take in a call that went well; tell whether the size changed.

        Args:
            full: As many were out as may be. Else the size was no obstacle, so it has not been tried.

        Switches: never.
        """
        if full:
            self._exact = min(float(self.most), self._exact + (1.0 if self._growing else 1.0 / self._exact))
        return self._rounded()

    def failed(self, *, began: float, now: float) -> bool:
        """Take in a call the other side was too busy for; tell whether the size changed.

        Args:
            began: When the call began; what began before the last cut says nothing about the new size.
            now: The time, by the same clock.

        Switches: never.
        """
        if began < self._cut_at:
            return False
        self._growing = False
        self._cut_at = now
        self._exact = max(float(self.least), self._exact * CUT)
        return self._rounded()

    def limit_to(self, most: int) -> None:
        """Have another upper bound.

        Switches: never.
        """
        self.most = most
        self._exact = min(self._exact, float(most))
        self._rounded()

    def _rounded(self) -> bool:
        before, self.size = self.size, int(self._exact)
        return self.size != before
