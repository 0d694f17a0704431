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
        wall: What a clock on the wall shows then, in seconds since 1970; it goes along, and `step()` sets it.
    """

    __slots__ = ("_ahead", "_now")

    def __init__(self, start: float = 1_000.0, *, wall: float = 1_767_225_600.0) -> None:
        self._now = float(start)
        self._ahead = wall - self._now

    def __repr__(self) -> str:
        return f"<FakeClock {self._now:g}>"

    def now(self) -> float:
        """Return the current reading in seconds.

        Switches: never
        """
        return self._now

    def wall(self) -> float:
        """Return the reading of the clock on the wall, in seconds since 1970.

        Switches: never
        """
        return self._now + self._ahead

    def step(self, seconds: float) -> None:
        """Set the clock on the wall forward or, when negative, back; no time passes.

        Switches: never
        """
        self._ahead += seconds

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
