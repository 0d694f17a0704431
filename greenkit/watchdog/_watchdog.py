"""A heartbeat in the hub and a native thread that listens to it.

The beat is a hub timer: when it is late by more than the threshold, some greenlet did not switch,
and what the hub's thread executes at that moment is the culprit's stack. The thread is started
with the interpreter's own `start_new_thread`, never gevent's.
"""

from __future__ import annotations

import logging
import os
import tempfile
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import Any

import gevent
from gevent.monkey import get_original

from greenkit import facts
from greenkit.watchdog._stack import Sample, common, sample

__all__ = ["Watchdog", "WatchdogStatistics", "running", "start", "stop"]

_logger = logging.getLogger("greenkit.watchdog")
_start_thread = get_original("_thread", "start_new_thread")
_new_lock = get_original("_thread", "allocate_lock")
_get_ident = get_original("_thread", "get_ident")
_write = get_original("os", "write")

_STUCK = 10.0
"""After this many thresholds a block is told at once, not when it ends: it may never."""


@dataclass(frozen=True, slots=True)
class WatchdogStatistics:
    """Tell what the watchdog has seen.

    Attributes:
        threshold: Seconds from which a lag counts as a block.
        blocks: How many there were.
        worst_lag: The longest the hub stood still, in seconds, below the threshold too.
        worst_where: `file:line function` of the worst block, "" when there was none.
    """

    threshold: float
    blocks: int
    worst_lag: float
    worst_where: str


class Watchdog:
    """Watch the hub of the thread that calls `start()`.

    Args:
        threshold: Seconds the hub may stand still.
        name: Name in `facts.snapshot()`.
    """

    def __init__(self, threshold: float = 0.1, *, name: str = "hub") -> None:
        if not threshold > 0:
            raise ValueError(f"threshold is {threshold!r}; it must be seconds above 0")
        self.threshold = threshold
        self.name = name
        self._period = threshold / 4
        self._last = 0.0
        self._blocks = 0
        self._worst = 0.0
        self._worst_where = ""
        self._seen: tuple[float, Sample] | None = None
        self._timer: Any = None
        self._stop: Any = None
        facts.register("watchdog", self)

    def __repr__(self) -> str:
        state = "watching" if self._timer is not None else "stopped"
        return f"<Watchdog {self.name} {state}, {self._blocks} blocks over {self.threshold}s>"

    def start(self) -> None:
        """Begin; a second call changes nothing.

        Switches: never.
        """
        if self._timer is not None:
            return
        self._last = monotonic()
        self._timer = gevent.get_hub().loop.timer(self._period, self._period, ref=False)
        self._timer.start(self._beat)
        self._listen()
        _alive.add(self)

    def stop(self) -> None:
        """End; the thread is gone within a quarter of the threshold.

        Switches: never.
        """
        if self._timer is None:
            return
        self._timer.stop()
        self._timer.close()
        self._timer = None
        if self._stop is not None:
            self._stop.release()
            self._stop = None
        _alive.discard(self)

    def statistics(self) -> WatchdogStatistics:
        """Return what has been seen so far.

        Switches: never.
        """
        return WatchdogStatistics(self.threshold, self._blocks, self._worst, self._worst_where)

    # -- in the hub -----------------------------------------------------------

    def _beat(self) -> None:
        now = monotonic()
        last, self._last = self._last, now
        lag = max(0.0, now - last - self._period)
        if self._stop is None:
            self._listen()  # after fork: threads do not survive it
        worst = lag > self._worst
        self._worst = max(self._worst, lag)
        if lag < self.threshold:
            return
        seen = self._seen
        place = seen[1] if seen is not None and seen[0] == last else None
        self._blocks += 1
        if worst:
            self._worst_where = place.where if place else ""
        # Logging may wait for a handler's lock; the hub must not.
        gevent.spawn_raw(self._report, lag, place)

    def _report(self, lag: float, place: Sample | None) -> None:
        facts.emit(facts.HubBlocked(lag, place.where if place else "", place.lines if place else ()))
        if place is None:
            # Nobody was caught in the act: many greenlets in turn, or a machine that is too busy.
            _logger.warning("the hub was late by %.3f s, without one greenlet to blame", lag)
            return
        _logger.warning(
            "the hub stood still for %.3f s in %s (greenlet of %s); nothing else ran meanwhile. Move "
            "the work to a prefork worker or gevent's threadpool, or make the call cooperative",
            lag,
            place.where,
            place.lines[-1].rpartition(" ")[2],
        )

    # -- in the native thread -------------------------------------------------

    def _listen(self) -> None:
        self._stop = stop = _new_lock()
        stop.acquire()
        _start_thread(self._watch, (stop, _get_ident()))

    def _watch(self, stop: Any, thread: int) -> None:
        told = -1.0
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as scratch:
            while not stop.acquire(timeout=self._period):
                last = self._last
                late = monotonic() - last - self._period
                if late < self.threshold:
                    continue
                self._look(last, sample(thread, scratch))
                if told != last and late > _STUCK * self.threshold:
                    told = last
                    self._cry(late, last)

    def _look(self, last: float, taken: Sample | None) -> None:
        if taken is None:
            return
        before = self._seen
        if before is not None and before[0] == last:
            taken = common(before[1], taken)
        self._seen = (last, taken)

    def _cry(self, late: float, last: float) -> None:
        seen = self._seen
        where = seen[1].where if seen is not None and seen[0] == last else "an unknown place"
        line = f"greenkit: the hub has stood still for {late:.1f} s in {where}, and still does\n"
        # A logger's locks are gevent's; from a foreign thread only the descriptor is safe.
        _write(2, line.encode(errors="replace"))


_alive: weakref.WeakSet[Watchdog] = weakref.WeakSet()
_process: Watchdog | None = None


def _after_fork() -> None:
    for one in list(_alive):
        one._stop = None


os.register_at_fork(after_in_child=_after_fork)


def start(threshold: float = 0.1) -> Watchdog:
    """Watch this thread's hub until `stop()`; a second call replaces the first.

    Args:
        threshold: Seconds the hub may stand still before it is reported.

    Switches: never.
    """
    global _process  # noqa: PLW0603 - a process has one
    stop()
    _process = Watchdog(threshold)
    _process.start()
    return _process


def stop() -> None:
    """End what `start()` began.

    Switches: never.
    """
    global _process  # noqa: PLW0603
    if _process is not None:
        _process.stop()
        _process = None


def running() -> Watchdog | None:
    """Return the process's watchdog, or None."""
    return _process
