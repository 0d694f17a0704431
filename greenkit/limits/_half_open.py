"""After a pause the server asked for, one permit goes first (the probe), and the rest follow its answer.

Pure state: the budget holds its lock around every call. The shared record keeps the same three numbers.

Source: the half-open state of a circuit breaker (Nygard, Release It!, 2007).
"""

from __future__ import annotations

import math
from itertools import count

__all__ = ["PROBE_TIME", "HalfOpen"]

# Seconds the rest wait for the probe's answer. A refusal comes sooner: a call that is under way for longer
# was let in, and one that is lost must not keep everybody out.
PROBE_TIME = 5.0
# A pause that nobody has asked about for so long after its end is over for good.
_FORGET = 60.0
_numbers = count(1)


class HalfOpen:
    """Hold back all but the first permit after a pause.

    Attributes:
        number: Of the pause, unlike any other in this process; 0 while nothing is held back.
        until: Clock reading at which the rest go whatever became of the probe; `inf` before the first one.
        out: A probe is under way.
    """

    __slots__ = ("number", "out", "until")

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Hold nobody back."""
        self.number, self.until, self.out = 0, math.inf, False

    def begin(self, number: int | None = None) -> None:
        """Let one go first when the pause that begins now is over; `number` names it, by default a new one.
        """
        self.number, self.until, self.out = next(_numbers) if number is None else number, math.inf, False

    def blocked(self, now: float) -> float:
        """Return the seconds until the next may go, the answer of the probe aside; 0.0 for now."""
        if not self.number:
            return 0.0
        if now >= self.until:
            self.open()
            return 0.0
        return self.until - now if self.out else 0.0

    def sent(self, now: float) -> None:
        """Count the permit that was just granted as the probe, where one is missing."""
        if self.number:
            self.out = True
            self.until = min(
                self.until, now + PROBE_TIME
            )  # kept when a probe is lost: each would add its own

    def answered(self, number: int, *, passed: bool) -> bool:
        """Open when the probe of pause `number` passed, else let another go first; tell whether that is news.
        """
        if not number or number != self.number:
            return False
        if passed:
            self.open()
        else:
            self.out = False
        return True

    def matters(self, now: float, paused_until: float) -> bool:
        """Tell whether it is worth remembering."""
        return bool(self.number) and now < max(paused_until, -_FORGET) + _FORGET
