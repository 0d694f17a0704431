"""Many greenlets, bounded, none lost: a pool whose feeder takes slot, then permit, then spawns.

Here live the pool, its children, and the runs over an iterable. What a permit costs and when it
comes is a `greenkit.wait.Gate`'s affair; waiting is `greenkit.wait`'s.
"""

from __future__ import annotations

from greenkit.pool._child import Child
from greenkit.pool._outcome import Killed, Outcome, OutOfTime
from greenkit.pool._pool import GreenPool, PoolStatistics

__all__ = ["Child", "GreenPool", "Killed", "OutOfTime", "Outcome", "PoolStatistics"]
