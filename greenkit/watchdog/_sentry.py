"""The native thread that notices a late beat, looks at the hub's thread, and tells who blocks.

It shares a `Pulse` with the hub's side (`_watchdog.py`): the hub writes when it last beat, the thread writes
what it saw of the block since then. It takes no lock gevent patched and calls no code but its observers'.
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
"""After this many thresholds a block is told again, and on standard error: it may never end."""


@dataclass(slots=True)
class Block:
    """What the thread saw since one late beat, or since an earlier block that no beat divides from it.

    Attributes:
        beat: The `Pulse.last` it belongs to.
        since: When it began, on the monotonic clock.
        past: The blocks before it since that beat; they are over, and were told.
        looks: How many in a row found the same at work.
        seen: What those share.
        moved: An earlier look found something else.
        starved: Seconds the process did not get a processor: no greenlet's fault.
        base: What the thread had used when it began.
        startups: What each look found that a program does once.
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

    def left_for(self, one: Look) -> bool:
        """Tell whether `one` shows something else at work, in this greenlet or another."""
        shared = common(self.seen, one) if self.seen is not None else one
        return shared is None or (one.users and not shared.users)

    def add(self, one: Look) -> None:
        """Take a further look into account; what was too short to be told is forgotten for it."""
        self.startups.append(one.startup)
        if self.left_for(one):
            self.seen, self.looks, self.moved = one, 1, True
            return
        shared = common(self.seen, one) if self.seen else one
        if self.seen and self.seen.users and not (shared and shared.users):
            return  # a library at work after the user's line, which stays the one to name
        self.seen, self.looks = shared, self.looks + 1

    @property
    def certain(self) -> bool:
        """Tell whether what was seen is more than what happened to run at one moment."""
        return self.looks > 1 or (self.looks == 1 and not self.moved)

    def starved_until(self, now: Usage, absent: float = 0.0, kept: float = 0.0) -> float:
        """Return for how long the thread got no processor.

        Args:
            now: What it has used.
            absent: Seconds in which no thread of the process got one.
            kept: Seconds in which the thread that watches got none and had the interpreter.
        """
        return max(self.starved, absent, now.since(self.base).waited) + kept

    @property
    def startup(self) -> str:
        """Return what most looks found that a program does once; "" for nothing."""
        every = [one for one in self.startups if one]
        return every[0] if len(every) * 2 > len(self.startups) else ""

    def fact(self, seconds: float, used: Usage, *, over: bool, begun: bool = True) -> facts.HubBlocked:
        """Return the block in the form everybody listens for.

        Args:
            seconds: How long it lasts.
            used: What the thread has used until now.
            over: It has ended.
            begun: The hub has turned before.
        """
        seen, by = self.seen or Look(()), self.by
        place = spot(seen, by)
        return facts.HubBlocked(
            seconds,
            str(place or ""),
            tuple(map(str, seen.spots)),
            over=over,
            module=place.module if place else "",
            function=place.function if place else "",
            call=seen.call,
            greenlet=by.text if by else "",
            task=seen.task,
            since=self.since,
            computed=used.since(self.base).computed,
            starved=self.starved_until(used),
            startup=self.startup or ("" if begun else "its start"),
        )


@dataclass(slots=True)
class Pulse:
    """What the hub and the thread tell each other; each field has one writer at a time.

    Attributes:
        last: When the hub last beat, or what was pending before its first turn was seen, on the monotonic
            clock; 0 before that.
        used: What its thread had used at that moment.
        begun: The hub has turned.
        expected: How many `expected()` are open.
        block: The block since `last`, when there is one.
        woke: When the thread last looked, on the monotonic clock.
        turns: How often it has looked.
        absent: Seconds for which it was not let run, and no other thread of the process was.
        kept: Seconds for which it kept the interpreter from others and got no processor.
    """

    last: float = 0.0
    used: Usage = NOTHING
    begun: bool = False
    expected: int = 0
    block: Block | None = None
    woke: float = 0.0
    turns: int = 0
    absent: float = 0.0
    kept: float = 0.0

    @property
    def lost(self) -> tuple[float, float]:
        """Return (`absent`, `kept`)."""
        return self.absent, self.kept


@dataclass(slots=True)
class Observers:
    """Call everybody in the native thread; what one of them raises goes to standard error."""

    every: tuple[Callable[[facts.HubBlocked], None], ...] = field(default=())

    def add(self, callback: Callable[[facts.HubBlocked], None]) -> Callable[[], None]:
        """Call `callback` from now on; return the function that ends it."""
        self.every = (*self.every, callback)

        def unsubscribe() -> None:
            self.every = tuple(one for one in self.every if one is not callback)

        return unsubscribe

    def tell(self, fact: facts.HubBlocked) -> None:
        """Hand `fact` to every observer."""
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
        hub: The hub; its thread is the one that starts the sentry.
        threshold: Seconds.
        interval: Seconds between two wake-ups; the hub beats as often.
        observers: Told of a block that goes on.
    """

    def __init__(
        self, pulse: Pulse, hub: Any, *, threshold: float, interval: float, observers: Observers
    ) -> None:
        self._pulse = pulse
        self._hub = weakref.ref(hub)
        self._threshold = threshold
        self._interval = interval
        self._observers = observers
        self._stop, self._gone = _new_lock(), _new_lock()
        self._own = 0

    def start(self) -> None:
        """Begin to watch the calling thread."""
        self._stop.acquire()
        self._gone.acquire()
        self._thread = _get_ident()
        self._meter = Meter()
        # A thread's locals die with it: the one sign of its end that needs nobody's help.
        self._local = _Local()
        self._local.token = token = _Token()
        self._alive = weakref.ref(token)
        # Not in the thread: the process may be stopped before that runs.
        self._began = monotonic(), self._meter.read().computed
        _start_thread(self._run, ())

    def stop(self) -> None:
        """End; when it returns the thread is gone, or has been given a second."""
        self._stop.release()
        if _get_ident() != self._own:
            self._gone.acquire(timeout=1.0)

    def _run(self) -> None:
        self._own = _get_ident()
        pulse, own = self._pulse, Meter()
        (began, worked), parked = self._began, _parked()
        try:
            while True:
                stopped = self._stop.acquire(timeout=self._interval)
                now, before = monotonic(), (began, worked, parked)
                # Measured from wake-up to wake-up: the process may be stopped anywhere between.
                began, worked, parked = now, self._meter.read().computed, _parked()
                waited = own.read().waited
                passed, work = now - before[0], worked - before[1]
                queued = self._queued(passed, parked - before[2])
                pulse.absent += 0.0 if queued else max(0.0, passed - self._interval - work)
                pulse.woke, pulse.turns = now, pulse.turns + 1
                if stopped or self._alive() is None:
                    return
                if self._turn(now, passed, work, queued=queued):
                    began = monotonic()  # what observers take is no time in which nobody ran
                # We held the interpreter and got no processor: so did the hub, and it shows as asleep.
                pulse.kept += own.read().waited - waited
        finally:
            self._gone.release()

    def _queued(self, passed: float, parked: int) -> bool:
        """Tell whether we slept longer than asked because another thread kept the interpreter to itself.

        CPython, ceval_gil.c `take_gil()`: who waits for the interpreter wakes once per switch interval. A
        process that is stopped, or gets no processor, parks its threads once.
        """
        late = passed - self._interval
        return late > 0 and parked - 2 > late / sys.getswitchinterval() / 4

    def _starved(self, passed: float, worked: float, *, queued: bool = False) -> float:
        """Return for how many of the seconds `passed` the watched thread wanted a processor and got none."""
        if queued:
            return 0.0  # it had the interpreter, in a call that sleeps or computes
        if self._is_runnable():
            return max(0.0, passed - worked)
        # We slept for longer than asked: either the thread we watch kept the interpreter to itself, and
        # worked, or nobody in this process got a processor.
        return max(0.0, passed - self._interval - worked)

    def _is_runnable(self) -> bool:
        # Linux, proc(5): the state is the first field after the name, and the name may hold anything.
        try:
            with open(f"/proc/self/task/{self._meter.task}/stat", "rb") as file:  # noqa: PTH123 - we take no lock
                return file.read().rpartition(b")")[2].split()[0] == b"R"
        except OSError:
            return False

    def _turn(self, now: float, passed: float, worked: float, *, queued: bool) -> bool:
        """Look whether a beat is late; return whether observers were told so."""
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
        late, used = now - block.since, self._meter.read()
        alone = late - block.starved_until(used, kept=self._pulse.kept - block.kept)
        stage = 2 if alone > STUCK * self._threshold else 1
        if block.told >= stage or block.looks < 2 or alone < self._threshold:
            return False
        if block.told == 0:
            block.by = self._who(block)
        block.told = stage
        # A call that kept the interpreter to itself lets us in when it is over.
        if self._pulse.last == last:
            self._tell(block.fact(late, used, over=False, begun=self._pulse.begun), stuck=stage == 2)
        return True

    def _pending(self, now: float) -> float:
        """Return since when something waits for the hub's first turn; 0 when nothing does."""
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

    def _who(self, block: Block) -> Culprit | None:
        hub = self._hub()
        by = culprit(hub) if hub is not None else None
        # Looking takes its time; what runs after the next beat is somebody else.
        return by if self._pulse.last == block.beat else None

    def _tell(self, fact: facts.HubBlocked, *, stuck: bool) -> None:
        if stuck:
            # A logger's locks are gevent's; from a foreign thread only the descriptor is safe.
            _say(
                f"greenkit: the hub has stood still for {fact.seconds:.1f} s {describe(fact)}, and still does"
            )
        self._observers.tell(fact)


def describe(fact: facts.HubBlocked) -> str:
    """Return where it blocks, in which call, task and greenlet, as far as known."""
    parts = [f"in {fact.where or 'an unknown place'}"]
    parts += [f"at {fact.startup}"] if fact.startup and fact.computes else []
    parts += ["computing in Python"] if fact.computes and not fact.call else []
    parts += [f"calling {fact.call}"] if fact.call else []
    parts += [f"task {fact.task}"] if fact.task else []
    parts += [f"greenlet {fact.greenlet}"] if fact.greenlet else []
    return ", ".join(parts)


def _parked() -> int:
    """Return how often the calling thread has given up its processor of its own accord."""
    # RUSAGE_THREAD is Linux's; elsewhere every long sleep is taken for a machine that is too busy.
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if hasattr(resource, "RUSAGE_THREAD") else 0


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode(errors="replace"))
