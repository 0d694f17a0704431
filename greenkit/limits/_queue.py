"""Who waits for a limit, in which order, and how they are parked, woken and timed.

Three lanes, of which none starves: plain structures without a clock; the budget holds its lock around every
call. A waiter parks in its greenlet, or, in a thread without a hub (a web server's, in a process that was
never patched), in its thread; both are woken from any thread. One timer is set for whoever is first.

Not `gevent.event.Event`: its timed wait raises and catches a `Timeout` at every expiry, and expiry
is the usual case here, once per grant.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import threading
import weakref
from collections import deque
from functools import partial
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gevent
from gevent import monkey
from gevent.hub import get_hub
from greenlet import getcurrent

from greenkit.wait import Mailbox, hub_here, hub_to_wait_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenkit.limits._gcra import Amounts


__all__ = [
    "BATCH",
    "LANES",
    "MOST_AHEAD",
    "NORMAL",
    "RETRY",
    "Forkable",
    "GreenParker",
    "NativeParker",
    "Queue",
    "Waiter",
    "Waits",
    "WakeTimer",
    "after_fork",
    "entered",
    "lane_of",
    "parker_here",
    "sleep",
]

LANES = ("retry", "normal", "batch")
RETRY, NORMAL, BATCH = range(3)
# Anti-starvation: after so many higher-priority grants a waiting lower lane gets the next.
MOST_AHEAD = 8
# Those who left a lane are kept up to so many, so that clearing it is worth its while.
_LEFT = 64


def lane_of(priority: str) -> int:
    """Return the number of a lane, 0 being served first.

    Raises:
        ValueError: There is no such priority.
    """
    try:
        return LANES.index(priority)
    except ValueError:
        msg = f"priority must be one of {', '.join(map(repr, LANES))}, not {priority!r}"
        raise ValueError(msg) from None


class Waiter:
    """One caller in the queue.

    Attributes:
        costs: What it asks for.
        lane: Place of its priority in `LANES`.
        until: Clock reading after which waiting makes no sense; `inf` for never.
        parker: Wakes it.
        granted: It has what it asked for, though it may not have run yet.
        error: Why it gets nothing.
        check_at: For a waiter without a hub: the clock reading at which it looks after the queue.
    """

    __slots__ = ("check_at", "costs", "error", "granted", "lane", "left", "parker", "until")

    def __init__(
        self, costs: Amounts, *, lane: int, until: float, parker: GreenParker | NativeParker
    ) -> None:
        self.costs = costs
        self.lane = lane
        self.until = until
        self.parker = parker
        self.granted = False
        self.error: BaseException | None = None
        self.left = False
        self.check_at = math.inf


class Queue:
    """Keep waiters in lanes, first come first served within each.

    Whoever stands first keeps its place whatever it costs, so a big cost is not starved by small
    ones. A higher lane goes first, but after `MOST_AHEAD` grants that went before it a lower lane has the
    next.

    Args:
        dimensions: How many numbers a cost has.

    Attributes:
        waiting: Waiters in all lanes.
    """

    __slots__ = ("_lanes", "_numbers", "_passed", "_size", "_sums", "_times", "waiting")

    def __init__(self, dimensions: int) -> None:
        self._lanes: tuple[deque[Waiter], ...] = tuple(deque() for _ in LANES)
        self._size = [0] * len(LANES)
        self._sums = [[0.0] * dimensions for _ in LANES]
        self._passed = [0] * len(LANES)
        self._times: list[tuple[float, int, Waiter]] = []
        self._numbers = count()
        self.waiting = 0

    def __iter__(self) -> Iterator[Waiter]:
        """Yield the waiters, highest lane first."""
        for lane in self._lanes:
            for waiter in lane:
                if not waiter.left:
                    yield waiter

    def add(self, waiter: Waiter) -> None:
        """Put `waiter` at the end of its lane."""
        lane = waiter.lane
        self._lanes[lane].append(waiter)
        self._size[lane] += 1
        sums = self._sums[lane]
        for place, cost in enumerate(waiter.costs):
            sums[place] += cost
        self.waiting += 1
        if waiter.until != math.inf:
            heapq.heappush(self._times, (waiter.until, next(self._numbers), waiter))

    def remove(self, waiter: Waiter) -> None:
        """Take `waiter` out, wherever it stands; doing it twice is fine."""
        if waiter.left:
            return
        # Only marked: searching a long lane for everybody who dies would be quadratic.
        waiter.left = True
        lane = waiter.lane
        self._size[lane] -= 1
        self.waiting -= 1
        sums = self._sums[lane]
        if self._size[lane]:
            for place, cost in enumerate(waiter.costs):
                sums[place] -= cost
        else:
            sums[:] = [0.0] * len(sums)  # exactly: sums of fractions drift
            self._passed[lane] = 0
        self._forget(lane)

    def head(self) -> Waiter | None:
        """Return the next waiter; forget waiters whose thread has ended."""
        while self.waiting:
            lane = self._lanes[self._next_lane()]
            while lane[0].left:
                lane.popleft()
            if not lane[0].parker.gone:
                return lane[0]
            self.remove(lane[0])
        return None

    def grant(self, waiter: Waiter) -> None:
        """Take the head out because it has what it asked for, and remember whom it went before."""
        self.remove(waiter)
        self._passed[waiter.lane] = 0
        if self.waiting:
            for lane in range(waiter.lane + 1, len(LANES)):
                if self._size[lane]:
                    self._passed[lane] += 1

    def expired(self, now: float) -> Waiter | None:
        """Take out and return a waiter whose time is over, if there is one."""
        while self._times and (self._times[0][2].left or self._times[0][0] <= now):
            waiter = heapq.heappop(self._times)[2]
            if not waiter.left:
                self.remove(waiter)
                return waiter
        return None

    def next_expiry(self) -> float:
        """Return the clock reading at which the next waiter's time is over."""
        while self._times and self._times[0][2].left:
            heapq.heappop(self._times)
        return self._times[0][0] if self._times else math.inf

    def ahead(self, lane: int) -> Amounts:
        """Return what is granted before a waiter that joins `lane` now.

        Its own lane, and the lanes above as far as they may go first.
        """
        total = list(self._sums[lane])
        before = MOST_AHEAD * (self._size[lane] + 1)
        for higher in range(lane):
            if self._size[higher]:
                share = min(1.0, before / self._size[higher])
                total = [units + more * share for units, more in zip(total, self._sums[higher], strict=True)]
        return tuple(total)

    def _forget(self, lane: int) -> None:
        """Drop those who left once they are the most, so that they cost no memory behind a long wait."""
        if len(self._lanes[lane]) > 2 * self._size[lane] + _LEFT:
            stay = [waiter for waiter in self._lanes[lane] if not waiter.left]
            self._lanes[lane].clear()
            self._lanes[lane].extend(stay)
        if len(self._times) > 2 * self.waiting + _LEFT:
            self._times = [entry for entry in self._times if not entry[2].left]
            heapq.heapify(self._times)

    def _next_lane(self) -> int:
        """Return the lane whose first waiter is next; the queue is not empty."""
        for lane in range(len(LANES) - 1, 0, -1):
            if self._size[lane] and self._passed[lane] >= MOST_AHEAD:
                return lane
        return next(lane for lane, size in enumerate(self._size) if size)


_allocate_lock = monkey.get_original("_thread", "allocate_lock")


def parker_here(*, ref: bool = True) -> GreenParker | NativeParker:
    """Return a new parker for the caller; `ref` as in `GreenParker`."""
    return NativeParker() if hub_here() is None else GreenParker(hub_to_wait_in(), ref=ref)


class GreenParker:
    """Wake the greenlet that made it.

    Args:
        hub: Of this thread.
        ref: The sleep keeps the hub alive, as somebody's wait does and an attendant's does not.
    """

    __slots__ = ("_greenlet", "_parked", "_ref", "_woken", "hub", "mailbox")

    def __init__(self, hub: Any, *, ref: bool = True) -> None:
        self.hub = hub
        self.mailbox = Mailbox.of(hub)
        self._ref = ref
        self._greenlet: Any = getcurrent()
        self._parked = False
        self._woken = False

    @property
    def gone(self) -> bool:
        """Tell whether the sleeper's thread has ended, so that nothing can wake it."""
        return bool(self.hub.dead)

    def wake(self) -> None:
        """End the sleep, or the next if none has begun; the sleeper never runs inside this call."""
        self._woken = True  # before the look at `_parked`: `park()` does it the other way around
        if self._parked:
            self.mailbox.wake(self._wake)

    def park(self, seconds: float | None = None) -> None:
        """Sleep until it rings or `seconds` have passed; perhaps a little less, as timers are."""
        hub = self.hub
        kept, timer = seconds is None and self._ref, None
        if kept:
            self.mailbox.keep_alive()  # another thread may be the one to wake it
        try:
            if seconds is not None:
                timer = hub.loop.timer(max(seconds, 0.0), ref=self._ref)
                timer.start(self._wake)
            self._parked = True
            if not self._woken:
                hub.switch()
        finally:
            self._parked = self._woken = False
            if timer is not None:
                timer.close()
            if kept:
                self.mailbox.let_go()

    def _wake(self) -> None:
        # A kill that ran before us has taken the sleeper elsewhere.
        if self._parked:
            self._parked = False
            self._greenlet.switch()


class NativeParker:
    """Wake the thread that made it."""

    __slots__ = ("_lock",)

    hub = None
    mailbox = None
    gone = False

    def __init__(self) -> None:
        self._lock = _allocate_lock()
        self._lock.acquire()

    def wake(self) -> None:
        """End the sleep, or the next one if none has begun."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # woken already: one token is enough

    def park(self, seconds: float | None = None) -> None:
        """Block the thread until it rings or `seconds` have passed."""
        longest = threading.TIMEOUT_MAX
        self._lock.acquire(timeout=longest if seconds is None else min(max(seconds, 0.0), longest))


def sleep(seconds: float) -> None:
    """Sleep in the caller's way: the greenlet, or the thread."""
    parker_here().park(seconds)


class WakeTimer:
    """Call `callback` in a hub after a while; setting it again replaces the time.

    Where two hubs share it, an earlier setting may still go off in the other one: whoever is called
    must look at the clock.

    Args:
        callback: Called in the hub.
        ref: It keeps the hub alive, as what somebody waits for does and housekeeping does not.
    """

    __slots__ = ("_callback", "_hub", "_number", "_ref", "_timer")

    def __init__(self, callback: Callable[[], None], *, ref: bool = True) -> None:
        self._callback = callback
        self._ref = ref
        self._hub: Any = None
        self._timer: Any = None
        self._number = 0

    def set(self, mailbox: Mailbox, seconds: float) -> None:
        """Go off in the hub of `mailbox`, `seconds` from now.

        Callers take turns (they hold the lock of the queue).
        """
        hub = mailbox.hub
        self._number += 1
        if hub is hub_here():
            self._start(hub, seconds)
        else:
            mailbox.post(partial(self._start_there, self._number, hub, monotonic() + seconds))

    def cancel(self) -> None:
        """Do not go off, as far as this thread can help it."""
        self._number += 1
        # A libev timer may only be touched by its own thread.
        if self._timer is not None and self._hub is hub_here():
            self._timer.close()
        self._timer = None

    def _start_there(self, number: int, hub: Any, due: float) -> None:
        # Set anew since: starting this one would end the timer of a later setting, and nobody would be woken.
        if number == self._number:
            self._start(hub, due - monotonic())

    def _start(self, hub: Any, seconds: float) -> None:
        if self._timer is not None and self._hub is hub:
            self._timer.close()
        timer = hub.loop.timer(max(seconds, 0.0), ref=self._ref)
        self._hub, self._timer = hub, timer
        timer.start(self._callback)


class Waits:
    """Remember a fair sample of the waits that were not 0; those that were are only counted.

    Args:
        size: Waits kept. 1024 put p95 within two percentage points.

    Source: Vitter 1985, algorithm R.
    """

    __slots__ = ("_random", "_sample", "_size", "count", "longest")

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._sample: list[float] = []
        # Own and seeded: a limiter must not disturb the program's random numbers.
        self._random = random.Random(size)
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Take one wait into account."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        if len(self._sample) < self._size:
            self._sample.append(seconds)
            return
        place = self._random.randrange(self.count)
        if place < self._size:
            self._sample[place] = seconds

    def quantile(self, share: float, *, of: int) -> float:
        """Return the wait that `share` (0 to 1) of `of` permits did not exceed."""
        rank = share * of - (of - self.count)
        if rank <= 0 or not self._sample:
            return 0.0
        ordered = sorted(self._sample)
        return ordered[min(len(ordered) - 1, int(rank / self.count * len(ordered)))]


class Forkable(Protocol):
    """Know what to forget in a child."""

    def after_fork(self) -> None:
        """Forget the threads of the parent."""


def after_fork(thing: Forkable, /) -> None:
    """Have `thing.after_fork()` called in every child forked while it lives."""
    _things.add(thing)


def _call_after_fork() -> None:
    for thing in list(_things):
        thing.after_fork()


_things: weakref.WeakSet[Forkable] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_call_after_fork)

T = TypeVar("T")


async def entered(enter: Callable[[], T], leave: Callable[[BaseException], object]) -> T:
    """Return what `enter()` returns, run where it may wait; cancelled, nothing stays taken.

    Args:
        enter: Waits in greenkit's way.
        leave: Undoes an `enter()` that succeeded when nobody was there any more to have its result.
    """
    import asyncio  # late: programs without coroutines do not load it

    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    gone: list[BaseException] = []

    def run() -> None:
        try:
            result = enter()
        except BaseException as error:
            loop.call_soon_threadsafe(_settle, answer, None, error)
            return
        if gone:
            leave(gone[0])
        else:
            loop.call_soon_threadsafe(deliver, result)

    def deliver(result: T) -> None:
        # In the loop's thread, as the cancel is: one of them comes first.
        if gone:
            leave(gone[0])
        else:
            taken.append(True)
            _settle(answer, result, None)

    waiting: list[Any] = []
    taken: list[bool] = []

    def start() -> None:
        if not gone:
            waiting.append(gevent.spawn(run))

    mailbox = Mailbox.of(hub_here()) if hub_here() is not None else _helper()
    mailbox.post(start)
    try:
        return await answer
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            gone.append(error)
            if taken:
                leave(error)  # granted and cancelled in the same pass of the loop
            else:
                mailbox.post(lambda: gevent.killall(waiting, block=False))
        raise


_helpers: dict[int, Mailbox] = {}  # process id → the mailbox of its waiting thread
_start_new_thread = monkey.get_original("_thread", "start_new_thread")
_making = _allocate_lock()


def _helper() -> Mailbox:
    """Return the mailbox of the thread that waits for programs without a hub; started at the first call."""
    with _making:
        made = _helpers.get(os.getpid())
        if made is None:
            ready = _allocate_lock()
            ready.acquire()
            found: list[Mailbox] = []
            _start_new_thread(_serve, (found, ready))
            ready.acquire()
            made = _helpers[os.getpid()] = found[0]
        return made


def _serve(found: list[Mailbox], ready: Any) -> None:
    mailbox = Mailbox.of(get_hub())
    mailbox.keep_alive()
    found.append(mailbox)
    ready.release()
    get_hub().join()  # for as long as the process: keep_alive() never ends


def _settle(answer: Any, result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    elif isinstance(error, gevent.GreenletExit):
        answer.cancel()
    else:
        answer.set_exception(error)
