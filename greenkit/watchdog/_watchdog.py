"""The hub's side of the watchdog: a timer that beats, and the report when a block has ended.

When a beat is late by more than the threshold, some greenlet did not switch; the native thread
(`_sentry.py`) has sampled it meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.monkey import get_original

from greenkit import boot, facts
from greenkit.watchdog._log import BlockLog
from greenkit.watchdog._sentry import Block, Observers, Pulse, Sentry
from greenkit.watchdog._usage import Meter, Usage, count_collections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Watchdog", "WatchdogStatistics"]

_get_ident = get_original("_thread", "get_ident")


@dataclass(frozen=True, slots=True)
class WatchdogStatistics:
    """Count what the watchdog has seen.

    Attributes:
        threshold: Seconds from which a lag counts as a block.
        blocks: How many there were.
        worst_lag: The longest the hub stood still, in seconds, below the threshold too.
        worst_where: `file:line function` of the worst block, "" when there was none.
        blocked_seconds: How long all blocks lasted together.
    """

    threshold: float
    blocks: int
    worst_lag: float
    worst_where: str
    blocked_seconds: float = 0.0


@dataclass(slots=True)
class _Doubt:
    """A block that has ended and is not judged yet.

    Attributes:
        block: What the native thread saw of it; nothing when that thread could not run.
        seconds: How long it lasted.
        used: The usage of the hub's thread at its end.
        worst: It is the longest so far.
        begun: The hub had run its loop before it.
        look_count: How often the native thread had looked by its end; -1 when it had just done so.
        lost: `Pulse.lost` when it began.
    """

    block: Block
    seconds: float
    used: Usage
    worst: bool
    begun: bool
    look_count: int
    lost: tuple[float, float]


class Watchdog:
    """Watch the hub of the thread that calls `start()`.

    Args:
        threshold: Seconds the hub may stand still.
        interval: Seconds between two beats, at most half the threshold; a quarter of it when None.
        quiet: Seconds in which further blocks of one place are counted instead of logged.
        report: Called, in a greenlet, with every block that has ended, instead of the fact and the log.
        name: Name in `facts.snapshot()`.
    """

    def __init__(
        self,
        threshold: float = 0.1,
        *,
        interval: float | None = None,
        quiet: float = 10.0,
        report: Callable[[facts.HubBlocked], None] | None = None,
        name: str = "hub",
    ) -> None:
        if not threshold > 0:
            raise ValueError(f"threshold is {threshold!r}; it must be seconds above 0")
        if interval is not None and not 0 < interval <= threshold / 2:
            raise ValueError(
                f"interval is {interval!r}; it must be seconds above 0 and at most half the threshold"
                f" ({threshold / 2:g}), or blocks fit between two beats unseen"
            )
        if not quiet >= 0:
            raise ValueError(f"quiet is {quiet!r}; it must be seconds, 0 to log every block")
        self.threshold = threshold
        self.interval = threshold / 4 if interval is None else interval
        self.name = name
        self._log = BlockLog(quiet)
        self._report = report or self._publish
        self._pulse = Pulse()
        self._observers = Observers()
        self._blocks = 0
        self._blocked = 0.0
        self._worst = 0.0
        self._worst_where = ""
        self._on = False
        self._thread = 0
        self._timer: Any = None
        self._expects: list[Callable[[], None]] = []
        self._doubts: list[_Doubt] = []
        self._lost = (0.0, 0.0)
        self._meter: Meter | None = None
        self._sentry: Sentry | None = None
        facts.register("watchdog", self)

    def __repr__(self) -> str:
        state = "watching" if self._on else "stopped"
        return f"<Watchdog {self.name} {state}, {self._blocks} blocks over {self.threshold}s>"

    def start(self) -> None:
        """Begin as soon as something waits for the hub; the program makes the hub.

        A second call changes nothing.

        Switches: never.
        """
        if self._on:
            return
        self._close()
        self._on = True
        self._thread = _get_ident()
        _alive.add(self)
        # A hub made here would count the program's first timers from now.
        self._expects.append(boot.on_hub(self._attach))

    def stop(self) -> None:
        """Stop watching; the native thread has ended when this returns. Any thread may call it.

        A block that lasts until now is reported too.

        Switches: may, as a log handler does when blocks were counted and not yet logged.
        """
        if not self._on:
            return
        if self._pulse.last and _get_ident() == self._thread:
            self._beat()
        self._on = False
        if self._sentry is not None:
            self._sentry.stop()
            self._sentry = None
        self._judge()
        if _get_ident() == self._thread:
            self._close()  # elsewhere the next beat does it: a loop belongs to its thread
        _alive.discard(self)
        if not _alive:
            count_collections(False)

    def statistics(self) -> WatchdogStatistics:
        """Return what has been seen so far.

        Switches: never.
        """
        return WatchdogStatistics(self.threshold, self._blocks, self._worst, self._worst_where, self._blocked)

    def observe(self, callback: Callable[[facts.HubBlocked], None], /) -> Callable[[], None]:
        """Have `callback` called while a block goes on; return the function that ends it.

        Called once when a block is recognised and once more when it has lasted ten thresholds, with
        `over=False`, **in the watchdog's native thread**: it must use nothing gevent patched (no lock, no
        `logging`, no socket of the process's own) and must not wait. Writing a file is fine. An error
        it raises is written to standard error.

        Switches: never.
        """
        return self._observers.add(callback)

    @contextlib.contextmanager
    def expected(self) -> Iterator[None]:
        """Excuse what blocks inside: no report, no fact, no part in the statistics.

        For a known block that does not switch; while it is open nothing is watched.

        Switches: never.
        """
        pulse, began = self._pulse, monotonic()
        pulse.expected += 1
        try:
            yield
        finally:
            if pulse.last and pulse.expected == 1:
                excused, block = monotonic() - max(began, pulse.last), pulse.block
                if block is not None and block.beat == pulse.last and block.since < began:
                    # It began before and goes on: report it as one block, without this time.
                    block.beat += excused
                    pulse.kept += excused
                pulse.last += excused
            pulse.expected -= 1

    def settle(self) -> None:
        """Judge the blocks so far, without waiting for the next beat.

        Switches: may, until the native thread has looked.
        """
        if self._on and self._pulse.last:
            self._beat()
        while self._doubts:
            gevent.sleep(self.interval)
            self._judge()

    # -- in the hub -----------------------------------------------------------

    def _attach(self, hub: Any) -> None:
        self._meter = Meter()
        count_collections(True)
        self._pulse.begun = False
        self._timer = hub.loop.timer(self.interval, self.interval, ref=False)
        if hub:  # it runs, and its greenlets may switch many times before its loop iterates
            self._first()
        else:
            # Not at the timer's first beat: a greenlet may block before that.
            self._expects.append(boot.on_turn(hub, self._first))
        if self._sentry is None:
            self._listen(hub)

    def _first(self) -> None:
        self._expects.clear()
        if not self._on:
            self._close()
        if not self._on or self._pulse.begun:
            return
        self._pulse.begun = True
        if self._pulse.last:
            self._beat(began=False)
        else:
            self._pulse.used = self._read()
            self._pulse.last = monotonic()
        self._timer.start(self._beat)
        if self._sentry is None:
            self._listen(gevent.get_hub())

    def _read(self) -> Usage:
        return self._meter.read() if self._meter is not None else Usage()

    def _listen(self, hub: Any) -> None:
        sentry = Sentry(
            self._pulse,
            hub,
            threshold=self.threshold,
            interval=self.interval,
            observers=self._observers,
        )
        try:
            sentry.start()
        except RuntimeError:
            return  # the interpreter shuts down (Python 3.12), or the system gives no thread now
        self._sentry = sentry

    def _beat(self, *, began: bool = True) -> None:
        if not self._on:
            self._close()
            return
        now, pulse = monotonic(), self._pulse
        last, pulse.last = pulse.last, now
        before, pulse.used = pulse.used, self._read()
        lost, self._lost = self._lost, pulse.lost
        if self._sentry is None:
            self._listen(gevent.get_hub())  # after fork: threads do not survive it
        if self._doubts:
            self._judge()
        lag = now - last - self.interval
        if now >= self._log.due:
            gevent.spawn_raw(self._log.flush, now)
        if pulse.expected:
            return
        worst = lag > self._worst
        self._worst = max(self._worst, lag)
        if lag >= self.threshold:
            self._ended(lag, last, before, lost, worst=worst, begun=began)

    def _ended(
        self, lag: float, last: float, before: Usage, lost: tuple[float, float], *, worst: bool, begun: bool
    ) -> None:
        since, used, block = last + self.interval, self._pulse.used, self._pulse.block
        if block is None or block.beat != last:
            block = Block(last, since, base=before)
        pulse = self._pulse
        seconds, looked = since + lag - block.since, pulse.woke > since + lag - 2 * self.interval
        self._doubts.append(
            _Doubt(block, seconds, used, worst, begun, -1 if looked else pulse.look_count, lost)
        )
        self._judge()

    def _judge(self) -> None:
        """Report ended blocks once the native thread has measured how long it could not run.

        After SIGCONT, or a suspend of the machine, the hub may run first: then only that thread can tell,
        by its own sleep, that the whole process stood still.
        """
        doubts, self._doubts = self._doubts, []
        for doubt in doubts:
            if self._sentry is not None and self._pulse.look_count == doubt.look_count:
                self._doubts.append(doubt)
            else:
                self._told(doubt)

    def _told(self, doubt: _Doubt) -> None:
        block, used = doubt.block, doubt.used
        # Time without a processor is not caused by a greenlet.
        absent, kept = (now - before for now, before in zip(self._pulse.lost, doubt.lost, strict=True))
        alone = block.alone(doubt.seconds, used, absent, kept)
        # Observers were called while it lasted, so report its end too.
        known = block.told > 0
        blamed = block.certain and (known or alone >= self.threshold / 2)
        ended = list(block.past)
        if (not ended or blamed) and (known or alone >= self.threshold):
            told = block if blamed else Block(block.beat, block.since, base=block.base)
            ended.append(told.fact(doubt.seconds - kept, used, over=True, begun=doubt.begun))
        if not ended:
            return
        if doubt.worst:
            self._worst_where = max(ended, key=lambda fact: fact.seconds).where
        for fact in ended:
            self._blocks += 1
            self._blocked += fact.seconds
            # In a greenlet: listeners and log handlers may wait, the hub must not.
            gevent.spawn_raw(self._report, fact)

    def _publish(self, fact: facts.HubBlocked) -> None:
        facts.emit(fact)
        self._log.note(fact, monotonic())

    def _close(self) -> None:
        while self._expects:
            self._expects.pop()()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._pulse.last = 0.0
        self._log.flush()


_alive: weakref.WeakSet[Watchdog] = weakref.WeakSet()


def _after_fork() -> None:
    for watchdog in list(_alive):
        watchdog._sentry = None
        watchdog._pulse.block = None
        watchdog._doubts.clear()  # the parent reports its own
        if watchdog._meter is not None:
            watchdog._meter = Meter()
            watchdog._pulse.used = watchdog._meter.read()
        if watchdog._pulse.last:
            watchdog._pulse.last = monotonic()


def _at_exit() -> None:
    # A native thread that outlives the interpreter may crash it.
    for watchdog in list(_alive):
        watchdog.stop()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
