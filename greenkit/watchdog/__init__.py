"""Say who blocked the hub, for how long, on which line and in which call.

A native thread samples; `start()` begins, `stop()` ends, `statistics()` tells, `observe()` hears of a
block while it lasts. The report goes through the log and `greenkit.facts`. `forbid()` raises at a blocking
call, for tests. What a whole process knows about itself is `doctor`'s.
"""

from __future__ import annotations

from greenkit.watchdog._calls import keep
from greenkit.watchdog._census import LivingGreenlet, Newcomers, living_greenlets, waiting, whereabouts
from greenkit.watchdog._forbid import forbid
from greenkit.watchdog._process import expected, from_environ, running, start, stop
from greenkit.watchdog._watchdog import Watchdog, WatchdogStatistics

__all__ = [
    "LivingGreenlet",
    "Newcomers",
    "Watchdog",
    "WatchdogStatistics",
    "expected",
    "forbid",
    "from_environ",
    "keep",
    "living_greenlets",
    "running",
    "start",
    "stop",
    "waiting",
    "whereabouts",
]
