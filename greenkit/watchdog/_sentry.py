"""The native thread that notices a late beat, samples the hub's thread, and reports what blocks it.

It shares a `Pulse` with the hub's side (`_watchdog.py`): the hub writes when it last beat, the thread writes
what it saw of the block since then. It takes no lock gevent patched and calls no foreign code but observers.
"""

from __future__ import annotations

import os
import resource
import sys
import weakref
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from greenkit import facts
from greenkit.watchdog._look import Culprit, Look, common, culprit, look, spot
from greenkit.watchdog._usage import NOTHING, Meter, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Block", "Observers", "Pulse", "Sentry", "describe"]

_start_thread = get_original("_thread", "start_new_thread")
_new_lock = get_original("_thread", "allocate_lock")
_get_ident = get_original("_thread", "get_ident")
_Local = get_original("_thread", "_local")

STUCK = 10.0
"""After this many thresholds a block is reported again, also on standard error: it may never end."""


@dataclass(slots=True)
class Block:
    """What the thread saw since a late beat, or since an earlier block with no beat in between.

    Attributes:
        beat: The `Pulse.last` it belongs to.
        since: When it began, on the monotonic clock.
        past: The blocks before it since that beat; they are over, and were reported.
        looks: How many looks in a row found the same code.
        seen: The frames those looks share.
        moved: An earlier look found something else.
        starved: Seconds the process did not get a processor, which no greenlet caused.
        base: The thread's usage when it began.
        startups: The one-time work each look found.
        told: 0 for nothing, 1 when recognised, 2 when stuck.
        kept: `Pulse.kept` when it began.
    """

    beat: float
    since: float
    past: tuple[facts.HubBlocked, ...] = ()
    looks: int = 0
    seen: Look | None = None
    moved: bool = False
    by: Culprit | None = None
    starved: float = 0.0
    base: Usage = NOTHING
    startups: list[str] = field(default_factory=list)
    told: int = 0
    kept: float = 0.0

    def left_for(self, latest: Look) -> bool:
        """Tell whether `latest` shows other code at work, in this greenlet or another."""
        shared = common(self.seen, latest) if self.seen is not None else latest
        return shared is None or (latest.users and not shared.users)

    def add(self, latest: Look) -> None:
        """Take a further look into account; it replaces a block too short to report."""
        self.startups.append(latest.startup)
        if self.left_for(latest):
            self.seen, self.looks, self.moved = latest, 1, True
            return
        shared = common(self.seen, latest) if self.seen else latest
        if self.seen and self.seen.users and not (shared and shared.users):
            return  # a library runs after the user's line; keep blaming that line
        self.seen, self.looks = shared, self.looks + 1

    @property
    def certain(self) -> bool:
        """Tell whether more than one sample, or the only sample, showed this code."""
        return self.looks > 1 or (self.looks == 1 and not self.moved)

    def starved_until(self, now: Usage, absent: float = 0.0, kept: float = 0.0) -> float:
        """Return the seconds the thread got no processor.

        Args:
            now: Its usage so far.
            absent: Seconds in which no thread of the process got a processor.
            kept: Seconds in which the watching thread held the interpreter without a processor.
        """
        return max(self.starved, absent, now.since(self.base).waited) + kept

    def alone(self, seconds: float, now: Usage, absent: float = 0.0, kept: float = 0.0) -> float:
        """Return the seconds that are the block's own, of the `seconds` it has lasted.

        On a busy machine a thread that computes also waits for the interpreter, which other threads of the
        process hold without a processor: what it was not ready for then is not its own either.
        """
        alone, spent = seconds - self.starved_until(now, absent, kept), now.since(self.base)
        called = self.seen is not None and self.seen.call
        if not called and spent.waited > spent.computed and (spent.waited + spent.computed) * 2 > seconds:
            return min(alone, spent.computed)
        return alone

    @property
    def startup(self) -> str:
        """Return the one-time work most looks found; "" for none."""
        every = [kind for kind in self.startups if kind]
        return every[0] if len(every) * 2 > len(self.startups) else ""

    def fact(self, seconds: float, used: Usage, *, over: bool, begun: bool = True) -> facts.HubBlocked:
        """Return the block as a fact.

        Args:
            seconds: How long it lasts.
            used: The thread's usage until now.
            over: It has ended.
            begun: The hub has run its loop before.
        """
        seen, by = self.seen or Look(()), self.by
        place, spent = spot(seen, by), used.since(self.base)
        starved = self.starved_until(used)
        computes = (spent.computed + starved) * 2 > seconds
        own = spent.computed if computes else seconds - starved
        collects = not seen.call and spent.collected * 2 > own
        return facts.HubBlocked(
            seconds,
            str(place or ""),
            tuple(map(str, seen.spots)),
            over=over,
            module=place.module if place else "",
            function=place.function if place else "",
            call=facts.COLLECTOR if collects else seen.call,
            greenlet=by.text if by else "",
            task=seen.task,
            since=self.since,
            computed=spent.computed,
            starved=starved,
            startup=self.startup or ("" if begun else "its start"),
        )


@dataclass(slots=True)
class Pulse:
    """State shared by the hub and the native thread; each field has one writer at a time.

    Attributes:
        last: When the hub last beat, or when work was first seen to wait for its first iteration, on the
            monotonic clock; 0 before that.
        used: Its thread's usage at that moment.
        begun: The hub has run its loop.
        expected: How many `expected()` are open.
        block: The block since `last`, when there is one.
        woke: When the thread last looked, on the monotonic clock.
        look_count: How often it has looked.
        absent: Seconds in which neither it nor any other thread of the process ran.
        kept: Seconds in which it held the interpreter without a processor.
    """

    last: float = 0.0
    used: Usage = NOTHING
    begun: bool = False
    expected: int = 0
    block: Block | None = None
    woke: float = 0.0
    look_count: int = 0
    absent: float = 0.0
    kept: float = 0.0

    @property
    def lost(self) -> tuple[float, float]:
        """Return (`absent`, `kept`)."""
        return self.absent, self.kept


@dataclass(slots=True)
class Observers:
    """Call observers in the native thread; an error one raises goes to standard error."""

    every: tuple[Callable[[facts.HubBlocked], None], ...] = field(default=())

    def add(self, callback: Callable[[facts.HubBlocked], None]) -> Callable[[], None]:
        """Call `callback` from now on; return the function that ends it."""
        self.every = (*self.every, callback)

        def unsubscribe() -> None:
            self.every = tuple(observer for observer in self.every if observer is not callback)

        return unsubscribe

    def tell(self, fact: facts.HubBlocked) -> None:
        """Call every observer with `fact`."""
        for callback in self.every:
            _call(callback, fact)


def _call(callback: Callable[[facts.HubBlocked], None], fact: facts.HubBlocked) -> None:
    try:
        callback(fact)
    except BaseException as error:
        _say(f"greenkit: an observer of the watchdog raised {type(error).__name__}: {error}")


class _Token:
    __slots__ = ("__weakref__",)


class Sentry:
    """Watch one pulse from a native thread, from `start()` in the hub's thread until `stop()`.

    Args:
        pulse: Shared with the hub's side.
        hub: The hub; its thread starts the sentry.
        threshold: Seconds.
        interval: Seconds between two wake-ups; the hub beats as often.
        observers: Called while a block goes on.
    """

    def __init__(
        self, pulse: Pulse, hub: Any, *, threshold: float, interval: float, observers: Observers
    ) -> None:
        self._pulse = pulse
        self._hub = weakref.ref(hub)
        self._threshold = threshold
        self._interval = interval
        self._observers = observers
        self._stop, self._ended = _new_lock(), _new_lock()
        self._own = 0

    def start(self) -> None:
        """Begin to watch the calling thread."""
        self._stop.acquire()
        self._ended.acquire()
        self._thread = _get_ident()
        self._meter = Meter()
        # A thread's locals die with it: this shows its end without the thread's cooperation.
        self._local = _Local()
        self._local.token = token = _Token()
        self._alive = weakref.ref(token)
        # Read here, not in the new thread: the process may be stopped before that runs.
        self._began = monotonic(), self._meter.read().computed
        _start_thread(self._run, ())

    def stop(self) -> None:
        """Stop the thread, and wait up to a second until it has ended."""
        self._stop.release()
        if _get_ident() != self._own:
            self._ended.acquire(timeout=1.0)

    def _run(self) -> None:
        self._own = _get_ident()
        pulse, own = self._pulse, Meter()
        (began, worked), parked = self._began, _parked()
        try:
            while True:
                stopped = self._stop.acquire(timeout=self._interval)
                now, before = monotonic(), (began, worked, parked)
                # Measure from wake-up to wake-up: the process may be stopped anywhere between.
                began, worked, parked = now, self._meter.read().computed, _parked()
                waited = own.read().waited
                passed, work = now - before[0], worked - before[1]
                queued = self._queued(passed, parked - before[2])
                pulse.absent += 0.0 if queued else max(0.0, passed - self._interval - work)
                pulse.woke, pulse.look_count = now, pulse.look_count + 1
                if stopped or self._alive() is None:
                    return
                if self._check(now, passed, work, queued=queued):
                    began = monotonic()  # exclude the observers' time: the process ran meanwhile
                # While this thread held the interpreter without a processor, the hub could not run either.
                pulse.kept += own.read().waited - waited
        finally:
            self._ended.release()

    def _queued(self, passed: float, parked: int) -> bool:
        """Tell whether this thread slept too long because another thread held the interpreter.

        CPython, ceval_gil.c `take_gil()`: a thread waiting for the interpreter wakes once per switch
        interval. A process that is stopped, or gets no processor, parks its threads once.
        """
        late = passed - self._interval
        return late > 0 and parked - 2 > late / sys.getswitchinterval() / 4

    def _starved(self, passed: float, worked: float, *, queued: bool = False) -> float:
        """Return how many of the seconds `passed` the watched thread was runnable without a processor."""
        if queued:
            return 0.0  # it held the interpreter, in a call that sleeps or computes
        if self._is_runnable():
            return max(0.0, passed - worked)
        # This thread slept too long: either the watched thread held the interpreter and computed, or no
        # thread of this process got a processor.
        return max(0.0, passed - self._interval - worked)

    def _is_runnable(self) -> bool:
        # Linux, proc(5): the state is the first field after the name, which may contain any character.
        try:
            with open(f"/proc/self/task/{self._meter.task}/stat", "rb") as file:  # noqa: PTH123 - takes no lock
                return file.read().rpartition(b")")[2].split()[0] == b"R"
        except OSError:
            return False

    def _check(self, now: float, passed: float, worked: float, *, queued: bool) -> bool:
        """Sample the hub's thread if a beat is late; return whether observers were called."""
        last = self._pulse.last or self._pending(now)
        late = now - last - self._interval
        if not last or self._pulse.expected or late < self._threshold / 2:
            return False
        block = self._pulse.block
        if block is None or block.beat != last:
            block = Block(last, last + self._interval, base=self._pulse.used, kept=self._pulse.kept)
            self._pulse.block = block
        block.starved += self._starved(passed, worked, queued=queued)
        block = self._look(block, now)
        late, used, kept = now - block.since, self._meter.read(), self._pulse.kept - block.kept
        alone = block.alone(late, used, kept=kept)
        stage = 2 if alone > STUCK * self._threshold else 1
        if block.told >= stage or block.looks < 2 or alone < self._threshold:
            return False
        if block.told == 0:
            block.by = self._find_culprit(block)
        block.told = stage
        # A call that holds the interpreter lets this thread run only after it, when the block is over.
        if self._pulse.last == last:
            self._tell(block.fact(late - kept, used, over=False, begun=self._pulse.begun), stuck=stage == 2)
        return True

    def _pending(self, now: float) -> float:
        """Return since when something waits for the hub's first iteration; 0 when nothing does."""
        hub = self._hub()
        try:
            waits = hub is not None and not self._pulse.begun and hub.loop.activecnt > 0
        except Exception:
            return 0.0  # the hub, or its loop, has been destroyed
        if waits:
            self._pulse.used = self._meter.read()
            self._pulse.last = now
        return self._pulse.last

    def _look(self, block: Block, now: float) -> Block:
        seen = look(self._thread)
        if seen is None:
            return block
        if block.told and block.left_for(seen):
            used, begun = self._meter.read(), self._pulse.begun
            past = (*block.past, block.fact(now - block.since, used, over=True, begun=begun))
            block = self._pulse.block = Block(block.beat, now, past, base=used, kept=self._pulse.kept)
        block.add(seen)
        return block

    def _find_culprit(self, block: Block) -> Culprit | None:
        hub = self._hub()
        by = culprit(hub) if hub is not None else None
        # The look takes time; after the next beat another greenlet runs.
        return by if self._pulse.last == block.beat else None

    def _tell(self, fact: facts.HubBlocked, *, stuck: bool) -> None:
        if stuck:
            # A logger's locks are gevent's; from this thread only the descriptor is safe.
            _say(
                f"greenkit: the hub has stood still for {fact.seconds:.1f} s {describe(fact)}, and still does"
            )
        self._observers.tell(fact)


def describe(fact: facts.HubBlocked) -> str:
    """Return the place, call, task and greenlet of a block, as far as known."""
    parts = [f"in {fact.where or 'an unknown place'}"]
    parts += [f"at {fact.startup}"] if fact.startup and fact.computes else []
    parts += ["computing in Python"] if fact.computes and not fact.call else []
    parts += [f"calling {fact.call}"] if fact.call else []
    parts += [f"task {fact.task}"] if fact.task else []
    parts += [f"greenlet {fact.greenlet}"] if fact.greenlet else []
    return ", ".join(parts)


def _parked() -> int:
    """Return the voluntary context switches of the calling thread."""
    # RUSAGE_THREAD is Linux's; elsewhere every long sleep counts as an overloaded machine.
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if hasattr(resource, "RUSAGE_THREAD") else 0


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode(errors="replace"))
