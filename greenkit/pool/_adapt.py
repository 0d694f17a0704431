"""Find out how many calls at once the other side bears, as TCP finds out what a line bears. Pure.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), after a slow start (RFC 5681):
doubled with every round of successes until the first refusal; then a fifth less with every round in
which something was refused, and one more with every round in which nothing was.
"""

from __future__ import annotations

from gevent import Timeout

from greenkit.pool._outcome import OutOfTime
from greenkit.responses import chain, is_slow, read

__all__ = ["Adaptation", "is_overload"]

# The share of the ceiling a pool begins with, and what is left after a refusal.
_FIRST, _KEPT = 0.25, 0.8
_OVERLOADED = frozenset({429, 503, 529})
_TIMEOUTS = (TimeoutError, Timeout, OutOfTime)


class Adaptation:
    """Move a size between 1 and a ceiling by how work ends.

    Attributes:
        ceiling: The most it may be.
        size: What it is now; a fraction counts towards the next whole slot.
    """

    __slots__ = ("_cut_at", "_starting", "ceiling", "size")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.size = max(1.0, ceiling * _FIRST)
        self._cut_at = -1.0
        self._starting = True

    def went_well(self, *, crowded: bool) -> int:
        """Take a success in; return the size. Growth that nobody would use says nothing.

        Switches: never.
        """
        if crowded:
            self.size = min(self.ceiling, self.size + (1.0 if self._starting else 1.0 / self.size))
        return int(self.size)

    def was_refused(self, *, began: float, now: float) -> int:
        """Take a refusal in; return the size. What began before the last cut says nothing about the new size.

        Args:
            began: When the work began, in seconds of the clock `now` is read from.
            now: The time.

        Switches: never.
        """
        if began > self._cut_at:
            self.size = max(1.0, self.size * _KEPT)
            self._cut_at = now
            self._starting = False
        return int(self.size)


def is_overload(error: BaseException) -> bool:
    """Tell whether an error says "too much at once": 429, 503, 529, or any kind of time-out.

    Switches: never.
    """
    if any(isinstance(link, _TIMEOUTS) for link in chain(error)):
        return True
    answer = read(error)
    return (answer.status in _OVERLOADED and answer.heals) if answer.status is not None else is_slow(error)
