"""Say who blocked the hub, for how long, on which line and in which call.

A native thread samples the hub's thread. `start()` and `stop()` switch it on and off, `statistics()` counts,
`observe()` calls back while a block lasts. Blocks go to the log and to `greenkit.facts`. `forbid()` raises at
a blocking call, for tests. Checks of a whole process are in `greenkit.doctor`.
"""

from __future__ import annotations

from greenkit.watchdog._calls import keep_instrumented
from greenkit.watchdog._census import (
    LivingGreenlet,
    NewGreenlets,
    living_greenlets,
    oldest_waiting,
    whereabouts,
)
from greenkit.watchdog._forbid import forbid
from greenkit.watchdog._process import expected, from_environ, running, start, stop
from greenkit.watchdog._watchdog import Watchdog, WatchdogStatistics

__all__ = [
    "LivingGreenlet",
    "NewGreenlets",
    "Watchdog",
    "WatchdogStatistics",
    "expected",
    "forbid",
    "from_environ",
    "keep_instrumented",
    "living_greenlets",
    "oldest_waiting",
    "running",
    "start",
    "stop",
    "whereabouts",
]
