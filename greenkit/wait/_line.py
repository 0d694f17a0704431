"""A fair semaphore: a bounded number of slots, granted in order of arrival.

Limits, pools and connections all wait here, so that the hard part (a waiter may be killed, timed
out or woken at any moment) is written and proved once. A slot is free, held, or *granted*: promised
to a waiter whose greenlet has not run yet. Other semaphores leak granted slots; here a killed
waiter passes its grant on.

Why not `gevent.lock.BoundedSemaphore`: late-comers overtake waiters (barging), it cannot be
resized under waiters, and it has no statistics.
"""

from __future__ import annotations

import os
import weakref
from _thread import RLock  # native also after patching (gevent 26 leaves this name alone)
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gevent import monkey
from greenlet import getcurrent

from greenkit.errors import WaitTimeout
from greenkit.wait._mailbox import Mailbox, hub_here, hub_to_wait_in

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["WaitLine", "WaitLineStatistics"]

_thread_here = monkey.get_original("_thread", "get_ident")


@dataclass(frozen=True, slots=True)
class WaitLineStatistics:
    """Show a `WaitLine` at one instant.

    Attributes:
        size: Slots in all, as last set.
        free: Slots without a holder; negative after a shrink until enough holders released.
        in_use: Slots with a holder or promised to a waiter about to run.
        waiting: Waiters in the queue.
    """

    size: int
    free: int
    in_use: int
    waiting: int


class _Waiter:
    """One greenlet in the queue; `granted` and `parked` decide the races."""

    __slots__ = ("granted", "greenlet", "mailbox", "parked", "thread", "timed_out")

    def __init__(self) -> None:
        self.mailbox = Mailbox.of(hub_to_wait_in())
        self.greenlet: Any = getcurrent()
        self.thread = _thread_here()
        self.granted = False
        self.parked = False
        self.timed_out = False

    def wake(self) -> None:
        """Switch to the greenlet, in its hub, unless it no longer waits here.

        A kill that ran first has moved it on: a late switch would end an unrelated wait.
        """
        if self.parked:
            self.parked = False
            self.greenlet.switch()

    def expire(self) -> None:
        # If another thread granted it just now, its wake-up may not have arrived; wake the greenlet here,
        # since without this timer the hub may end before the wake-up comes.
        self.timed_out = not self.granted
        self.wake()


class WaitLine:
    """Hand out `size` slots, first come, first served.

    Safe when used from several native threads (each waiter parks in its own hub) and after
    `fork` (waiters and holders of threads that do not exist in the child are forgotten). Not re-entrant,
    not owned: any greenlet may release what another acquired.

    Args:
        size: Slots, at least 0; with 0 every caller waits until `resize()`.
        name: Shown in the repr and in errors.
    """

    __slots__ = (
        "__weakref__",
        "_elsewhere",
        "_forgotten",
        "_free",
        "_home",
        "_lock",
        "_queue",
        "_size",
        "name",
    )

    def __init__(self, size: int, *, name: str = "") -> None:
        _check_size(size)
        self.name = name
        self._size = size
        self._free = size
        # A forked child must free the slots of all other threads. Nearly all slots are taken in one native
        # thread, so only those of other threads are counted, by thread.
        self._home: int = _thread_here()
        self._elsewhere: dict[int, int] = {}
        self._forgotten = 0
        self._queue: deque[_Waiter] = deque()
        # Guards a few instructions against other native threads; never held across a switch.
        # Re-entrant because the collector may run a dead generator's `finally: release()`
        # while this very thread is inside.
        self._lock = RLock()
        _lines.add(self)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<WaitLine{name} {self._free}/{self._size} free, {len(self._queue)} waiting>"

    def acquire_nowait(self) -> bool:
        """Take a slot if one is free and no waiter is queued; tell whether it was taken.

        Switches: never.
        """
        with self._lock:
            # A free slot belongs to the queue, if there is one: no barging.
            free = self._free
            if free > 0 and not self._queue:
                self._free = free - 1
                if (thread := _thread_here()) != self._home:
                    self._elsewhere[thread] = self._elsewhere.get(thread, 0) + 1
                return True
            return False

    def acquire(self, *, timeout: float | None) -> None:
        """Take a slot, waiting in order of arrival.

        Args:
            timeout: Seconds to wait at the most; None waits for ever, 0 or less not at all.

        Raises:
            WaitTimeout: No slot came in time; nothing is held.

        Switches: may.
        """
        # With waiters queued it would fail; a slot freed meanwhile is granted below.
        if not self._queue and self.acquire_nowait():
            return
        if timeout is not None and timeout <= 0:
            raise self._timeout(timeout)
        waiter = _Waiter()
        with self._lock:
            self._queue.append(waiter)
            if self._free > 0:
                # A slot was released since the check above, and no release will follow to grant it.
                self._grant()
        try:
            self._park(waiter, timeout)
        except BaseException:
            # Killed, timed out by gevent.Timeout, or the hub ends: leave the queue, and pass a grant
            # that is under way to the next waiter.
            self._leave(waiter)
            raise
        if waiter.timed_out and self._leave(waiter, keep_grant=True):
            raise self._timeout(timeout)

    def release(self) -> None:
        """Give a slot back; the longest waiter gets it first.

        Raises:
            RuntimeError: More releases than acquires: a slot would be counted twice.

        Switches: never.
        """
        with self._lock:
            free = self._free
            if free >= self._size:
                self._release_forgotten()
                return
            self._free = free + 1
            if self._elsewhere:
                self._put_back(_thread_here())
            if self._queue:
                self._grant()

    @contextmanager
    def slot(self, *, timeout: float | None) -> Iterator[None]:
        """Hold a slot for the length of a `with` block.

        Raises:
            WaitTimeout: No slot came within `timeout` seconds.

        Switches: may (on entry).
        """
        self.acquire(timeout=timeout)
        try:
            yield
        finally:
            self.release()

    def resize(self, size: int) -> None:
        """Change the number of slots; growing wakes waiters now, shrinking waits for releases.

        Switches: never.
        """
        _check_size(size)
        with self._lock:
            self._free += size - self._size
            self._size = size
            self._grant()

    def statistics(self) -> WaitLineStatistics:
        """Return a frozen account of this instant.

        Switches: never.
        """
        with self._lock:
            return WaitLineStatistics(
                size=self._size,
                free=self._free,
                in_use=self._size - self._free,
                waiting=len(self._queue),
            )

    def _grant(self) -> None:
        """Promise free slots to the longest waiters. The lock is held."""
        while self._free > 0 and self._queue:
            waiter = self._queue.popleft()
            # Mark the grant before posting: the waiter's thread may run the wake-up at once.
            self._free -= 1
            if waiter.thread != self._home:
                self._elsewhere[waiter.thread] = self._elsewhere.get(waiter.thread, 0) + 1
            waiter.granted = True
            if not waiter.mailbox.post(waiter.wake):  # its thread has ended
                self._free += 1
                self._put_back(waiter.thread)

    def _put_back(self, thread: int) -> None:
        """Note that `thread` has released a slot, which another thread may have acquired."""
        elsewhere = self._elsewhere
        if thread not in elsewhere:
            if sum(elsewhere.values()) <= self._size - self._free:
                return  # a slot of the home thread
            thread = next(iter(elsewhere))
        elsewhere[thread] -= 1
        if not elsewhere[thread]:
            del elsewhere[thread]  # or the dict grows with every thread

    def _release_forgotten(self) -> None:
        if not self._forgotten:
            msg = f"{self!r}: release() without acquire(); a slot was given back twice"
            raise RuntimeError(msg)
        self._forgotten -= 1  # acquired by another thread of the parent, freed here at the fork

    def _park(self, waiter: _Waiter, timeout: float | None) -> None:
        """Switch to the hub until woken; returns at once when already granted."""
        mailbox, timer = waiter.mailbox, None
        if timeout is None:
            mailbox.keep_alive()  # the release may come from another thread
        try:
            if timeout is not None:
                timer = mailbox.hub.loop.timer(timeout)
                timer.start(waiter.expire)
            waiter.parked = True
            mailbox.hub.switch()
        finally:
            waiter.parked = False
            if timeout is None:
                mailbox.let_go()
            elif timer is not None:  # None when Ctrl-C came before it was made
                timer.close()

    def _leave(self, waiter: _Waiter, *, keep_grant: bool = False) -> bool:
        """Take `waiter` out of the queue; tell whether it leaves without a slot.

        A grant that arrived in the meantime is passed on, or kept with `keep_grant` (timer and grant
        coincided).
        """
        with self._lock:
            if not waiter.granted:
                self._queue.remove(waiter)
                return True
            if not keep_grant:
                self._free += 1
                self._put_back(waiter.thread)
                self._grant()
            return False

    def _timeout(self, timeout: float | None) -> WaitTimeout:
        seen = self.statistics()
        name = f" of {self.name!r}" if self.name else ""
        return WaitTimeout(
            f"no slot{name} came free within {timeout:g} s: {seen.in_use} of {seen.size} in use, "
            f"{seen.waiting} still waiting. Allow more at once, wait longer, or send less."
        )

    def _after_fork(self) -> None:
        """Forget, in a forked child, waiters and holders of threads that exist only in the parent."""
        self._lock = RLock()  # another thread may have held the old one for ever
        here = hub_here()
        self._queue = deque(waiter for waiter in self._queue if waiter.mailbox.hub is here)
        taken, thread = self._size - self._free, _thread_here()
        elsewhere = self._elsewhere
        mine = taken - sum(elsewhere.values()) if thread == self._home else elsewhere.get(thread, 0)
        gone = taken - mine
        self._home, self._elsewhere = thread, {}
        self._free += gone
        self._forgotten += gone
        self._grant()


def _check_size(size: int) -> None:
    if not isinstance(size, int) or size < 0:
        msg = f"size must be a whole number of slots, 0 or more, not {size!r}"
        raise ValueError(msg)


def _reset_lines_after_fork() -> None:
    for line in list(_lines):
        line._after_fork()


_lines: weakref.WeakSet[WaitLine] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lines_after_fork)
