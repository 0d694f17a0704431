"""A clock that moves only when told, so that tests of time take none.

Fits `greenkit._clock.Clock`. It moves no timers: what sleeps on gevent's loop sleeps on real time.
"""

from __future__ import annotations

import math

__all__ = ["FakeClock"]


class FakeClock:
    """Tell the time the test says it is.

    Args:
        start: First reading, in seconds. Not zero: code that takes 0.0 for "never" should be found out.
    """

    __slots__ = ("_now",)

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = float(start)

    def __repr__(self) -> str:
        return f"<FakeClock {self._now:g}>"

    def now(self) -> float:
        """Return the current reading in seconds.

        Switches: never
        """
        return self._now

    def advance(self, seconds: float) -> float:
        """Move forward and return the new reading.

        Raises:
            ValueError: `seconds` is negative or not finite; a monotonic clock never goes there.

        Switches: never
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a clock advances by a finite number of seconds ≥ 0, not {seconds!r}")
        self._now += seconds
        return self._now
