"""What a process has to tell a shared store, or to ask it, collected until the next request."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenkit.limits._queue import GreenParker, NativeParker
    from greenkit.limits._rules import Amounts

__all__ = ["News", "Try"]

# Seconds that news may wait for company when nobody waits for it.
_PATIENCE = 0.05


@dataclass(slots=True)
class News:
    """Collect what changed since the last request; -1 is no news.

    Attributes:
        deltas: Per dimension, units to charge, or when negative to refund.
        left: Per dimension, units that may go now at the most.
        shares: Per dimension, the server's own limit as a share of the configured rate.
        pause: Seconds nobody may go.
        asked: The server asked for the pause.
        probe: Number of the pause whose probe has been heard of, or 0.
        passed: That probe was let in.
        resume: End a pause.
        cut: Slow down after a 429.
        due: Clock reading at which it should be told.
    """

    deltas: Amounts
    left: Amounts
    shares: Amounts
    pause: float = 0.0
    asked: bool = False
    probe: int = 0
    passed: bool = False
    resume: bool = False
    cut: bool = False
    due: float = field(default=math.inf)

    @classmethod
    def none(cls, dimensions: int) -> News:
        """Return no news.

        Switches: never.
        """
        nothing = (-1.0,) * dimensions
        return cls((0.0,) * dimensions, nothing, nothing)

    def charge(self, units: Sequence[float], now: float) -> None:
        """Add units to be charged, or when negative refunded.

        Switches: never.
        """
        if any(units):
            self.deltas = tuple([a + b for a, b in zip(self.deltas, units, strict=True)])
            self.soon(now)

    def soon(self, now: float) -> None:
        """Have it told within a twentieth of a second.

        Switches: never.
        """
        self.due = min(self.due, now + _PATIENCE)

    def at_once(self) -> None:
        """Have it told now.

        Switches: never.
        """
        self.due = -math.inf


class Try:
    """Be somebody who wants a permit now or never.

    Attributes:
        costs: What it asks for.
        parker: Wakes it.
        answer: 0.0 for yes, or the seconds after which it would pass; None while not known.
        left: It does not wait for the answer any more.
    """

    __slots__ = ("answer", "costs", "left", "parker")

    def __init__(self, costs: Amounts, parker: GreenParker | NativeParker) -> None:
        self.costs = costs
        self.parker = parker
        self.answer: float | None = None
        self.left = False
