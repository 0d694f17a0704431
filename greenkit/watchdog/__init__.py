"""Say who blocked the hub, for how long and on which line.

A native thread samples; `start()` begins, `stop()` ends, `statistics()` tells. The report goes
through the log and `greenkit.facts`. What a whole process knows about itself is `doctor`'s.
"""

from __future__ import annotations

from greenkit.watchdog._watchdog import Watchdog, WatchdogStatistics, running, start, stop

__all__ = ["Watchdog", "WatchdogStatistics", "running", "start", "stop"]
