"""The clock every room reads, so that tests can bring their own.

Seconds as float, monotonic, from an arbitrary origin. Only readings of the same clock compare.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["MONOTONIC", "Clock", "MonotonicClock"]


class Clock(Protocol):
    """Tell the time; `greenkit.testing.FakeClock` is the other one.

    One that has `wall()`, too, tells the seconds since 1970 by it; of others the machine is asked.
    """

    def now(self) -> float:
        """Return seconds since an arbitrary origin; never runs backwards."""


class MonotonicClock:
    """Read the machine's monotonic clock."""

    __slots__ = ()
    # The builtin itself, not a method around it: this is read on every permit.
    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def __repr__(self) -> str:
        # The default of public arguments: help() and the API reference show it.
        return "MONOTONIC"


MONOTONIC: Clock = MonotonicClock()
