"""What cannot be read from a snapshot: how late the hub is, and how long callers waited, as histograms."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from greenkit import boot, facts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HUB_LAG", "LIMITER_WAIT", "Histogram", "Observed"]

_EVERY = 0.1  # seconds between two looks at the hub: ten callbacks a second
_LOOKS = 10
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MOST_NAMES = 100
HUB_LAG = "hub_lag"
LIMITER_WAIT = "limiter_wait"


class Histogram:
    """Count observations by size.

    Attributes:
        counts: Observations by bucket, the last without a bound.
        total: Their sum, seconds.
    """

    __slots__ = ("counts", "total")

    bounds = _BUCKETS

    def __init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Take one in. Switches: never."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, observations up to it), as Prometheus wants them. Switches: never."""
        told, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            told.append((bound, float(so_far)))
        return told


class Observed:
    """Watch the hub of this thread and listen to the facts until `stop()`.

    Args:
        also: Called as `also(name, seconds, labels)` with each observation.

    Attributes:
        recent: The worst lag of each of the last 60 seconds, the newest last.
    """

    def __init__(self, also: Callable[[str, float, dict[str, str]], object] | None = None) -> None:
        self.hub_lag = Histogram()
        self.limiter_waits: dict[str, Histogram] = {}
        self.recent: deque[float] = deque(maxlen=60)
        self._worst, self._looks = 0.0, 0
        self._also = also
        self._timer: Any = None
        self._last = 0.0
        self._unsubscribe = facts.subscribe(self._hear)
        self._forget_hub = boot.on_hub(self._attach)

    def stop(self) -> None:
        """End. Switches: never."""
        self._unsubscribe()
        self._forget_hub()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _attach(self, hub: Any) -> None:
        # Not counted by the loop: a program ends although its lag is watched.
        self._timer = hub.loop.timer(_EVERY, _EVERY, ref=False)
        self._last = perf_counter()
        self._timer.start(self._tick)

    def _tick(self) -> None:
        now = perf_counter()
        lag = max(0.0, now - self._last - _EVERY)
        self._last = now
        self.hub_lag.observe(lag)
        self._worst = max(self._worst, lag)
        self._looks += 1
        if self._looks >= _LOOKS:
            self.recent.append(round(self._worst, 4))
            self._worst, self._looks = 0.0, 0
        if self._also is not None:
            self._also(HUB_LAG, lag, {})

    def _hear(self, fact: object) -> None:
        if isinstance(fact, facts.PermitGranted):
            name = fact.limiter
            # Every task comes by here: make a histogram once for each limiter, not for each permit.
            waits = self.limiter_waits.get(name)
            if waits is None:
                name = name if len(self.limiter_waits) < _MOST_NAMES else "other"
                waits = self.limiter_waits.setdefault(name, Histogram())
            waits.observe(fact.waited)
            if self._also is not None:
                self._also(LIMITER_WAIT, fact.waited, {"limiter": name})
