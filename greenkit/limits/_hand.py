"""What a process has of a shared budget and has not given to anybody yet.

The store books slots up to a horizon ahead. Here they become *credit* at their instants, and whoever is first
in the queue takes from it; so a waiter that is killed loses nobody's slot, and nobody overtakes.
"""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING

from greenkit.limits._rules import JITTER_CREDIT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greenkit.limits._queue import Waiter
    from greenkit.limits._rules import Amounts

__all__ = ["Hand"]

# Sums of fractions come out a little short.
_ROUNDING = 1e-9


class Hand:
    """Hold credit, and bookings that become credit.

    Args:
        dimensions: How many numbers a cost has.
        strict: What was not used within 10 ms of its instant is not to be used at all: later it could
            fall into a window with others.
    """

    __slots__ = ("_bookings", "_credit", "_strict", "_total", "_zero")

    def __init__(self, dimensions: int, *, strict: bool) -> None:
        self._zero = (0.0,) * (dimensions + 1)
        # The last number counts permits: one that costs nothing has to be booked too.
        self._credit: Amounts = self._zero
        self._total: Amounts = self._zero  # credit and bookings
        self._bookings: list[tuple[float, Amounts]] = []
        self._strict = strict

    @property
    def permits(self) -> int:
        """Return how many permits are in hand."""
        return round(self._credit[-1]) + len(self._bookings)

    @property
    def first(self) -> float:
        """Return the instant of the next booking; `inf` when there is none."""
        return self._bookings[0][0] if self._bookings else math.inf

    @property
    def last(self) -> float:
        """Return the instant of the last booking; `-inf` when there is none."""
        return self._bookings[-1][0] if self._bookings else -math.inf

    def instant(self, left: int) -> float:
        """Return from when no more than `left` bookings are still to come; `-inf` when that is so now.

        Switches: never.
        """
        return self._bookings[-left - 1][0] if len(self._bookings) > left else -math.inf

    def book(self, instant: float, costs: Amounts) -> None:
        """Put a booking in.

        Switches: never.
        """
        amounts = (*costs, 1.0)
        bisect.insort(self._bookings, (instant, amounts))
        self._total = _plus(self._total, amounts)

    def put_back(self, costs: Amounts) -> None:
        """Put in what somebody took and did not use.

        Switches: never.
        """
        amounts = (*costs, 1.0)
        self._credit = _plus(self._credit, amounts)
        self._total = _plus(self._total, amounts)

    def take(self, costs: Amounts) -> bool:
        """Take `costs` out of the credit; tell whether there was enough.

        Switches: never.
        """
        amounts = (*costs, 1.0)
        left = _minus(self._credit, amounts)
        if min(left) < -_ROUNDING:
            return False
        self._credit = left
        # Sums of fractions drift; an empty hand is an exact zero.
        self._total = _minus(self._total, amounts) if self._bookings else left
        return True

    def mature(self, now: float) -> Amounts:
        """Make credit of the bookings whose instant has come; return what came too late, per dimension.

        Switches: never.
        """
        late = self._zero
        due = 0
        for instant, amounts in self._bookings:
            if instant > now + _ROUNDING:
                break
            due += 1
            if self._strict and now - instant > JITTER_CREDIT:
                late = _plus(late, amounts)
                self._total = _minus(self._total, amounts)
            else:
                self._credit = _plus(self._credit, amounts)
        del self._bookings[:due]
        return late[:-1]

    def empty(self) -> Amounts:
        """Take everything out and return it, per dimension.

        Switches: never.
        """
        everything = self._total
        self._credit = self._total = self._zero
        self._bookings.clear()
        return everything[:-1]

    def behind(self, ahead: Amounts) -> Amounts:
        """Return what of the costs `ahead` is not in hand yet.

        Switches: never.
        """
        return tuple([max(0.0, one - have) for one, have in zip(ahead, self._total, strict=False)])

    def uncovered(self, queue: Iterable[Waiter], most: int) -> list[Waiter]:
        """Return the waiters, in order and at most so many, for whom nothing is in hand.

        Switches: never.
        """
        have = self._total
        found: list[Waiter] = []
        for waiter in queue:
            left = _minus(have, (*waiter.costs, 1.0))
            if min(left) >= -_ROUNDING:
                have = left
            else:
                found.append(waiter)
                if len(found) == most:
                    break
        return found


def _plus(one: Amounts, two: Amounts) -> Amounts:
    return tuple([a + b for a, b in zip(one, two, strict=True)])


def _minus(one: Amounts, two: Amounts) -> Amounts:
    return tuple([a - b for a, b in zip(one, two, strict=True)])
