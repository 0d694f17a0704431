"""The alarm clock of one waiter: it sleeps until somebody rings, or until its time is over.

Two kinds. In a thread that has a hub the greenlet leaves the processor to the others; in a thread
without one (a web server's, in a process that was never patched) there are no others, and the
thread itself blocks. Both are rung from any thread.

Not `gevent.event.Event`: its timed wait raises and catches a `Timeout` at every expiry, and expiry
is the usual case here, once per grant.
"""

from __future__ import annotations

import threading
from typing import Any

from gevent import monkey
from greenlet import getcurrent

from greenkit.wait import Mailbox, hub_here, hub_to_wait_in

__all__ = ["GreenBell", "NativeBell", "bell_here", "sleep"]

_allocate_lock = monkey.get_original("_thread", "allocate_lock")


def bell_here(*, ref: bool = True) -> GreenBell | NativeBell:
    """Return a new bell for whoever runs now; `ref` as in `GreenBell`.

    Switches: never.
    """
    return NativeBell() if hub_here() is None else GreenBell(hub_to_wait_in(), ref=ref)


class GreenBell:
    """Wake the greenlet that made it.

    Args:
        hub: Of this thread.
        ref: The sleep keeps the hub alive, as somebody's wait does and an attendant's does not.
    """

    __slots__ = ("_greenlet", "_parked", "_ref", "_rung", "hub", "mailbox")

    def __init__(self, hub: Any, *, ref: bool = True) -> None:
        self.hub = hub
        self.mailbox = Mailbox.of(hub)
        self._ref = ref
        self._greenlet: Any = getcurrent()
        self._parked = False
        self._rung = False

    @property
    def gone(self) -> bool:
        """Tell whether the sleeper's thread has ended, so that nothing can wake it."""
        return bool(self.hub.dead)

    def ring(self) -> None:
        """End the sleep, or the next one if none has begun; the sleeper runs later, never inside this call.

        Switches: never.
        """
        self._rung = True  # before the look at `_parked`: `wait()` does it the other way round
        if self._parked:
            self.mailbox.wake(self._wake)

    def wait(self, seconds: float | None = None) -> None:
        """Sleep until it rings or `seconds` have passed; perhaps a little less, as timers are.

        Switches: may.
        """
        hub = self.hub
        kept, timer = seconds is None and self._ref, None
        if kept:
            self.mailbox.keep_alive()  # another thread may be the one to ring
        try:
            if seconds is not None:
                timer = hub.loop.timer(max(seconds, 0.0), ref=self._ref)
                timer.start(self._wake)
            self._parked = True
            if not self._rung:
                hub.switch()
        finally:
            self._parked = self._rung = False
            if timer is not None:
                timer.close()
            if kept:
                self.mailbox.let_go()

    def _wake(self) -> None:
        # A kill that ran before us has taken the sleeper elsewhere.
        if self._parked:
            self._parked = False
            self._greenlet.switch()


class NativeBell:
    """Wake the thread that made it."""

    __slots__ = ("_lock",)

    hub = None
    mailbox = None
    gone = False

    def __init__(self) -> None:
        self._lock = _allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """End the sleep, or the next one if none has begun.

        Switches: never.
        """
        try:
            self._lock.release()
        except RuntimeError:
            pass  # rung already: one token is enough

    def wait(self, seconds: float | None = None) -> None:
        """Block the thread until it rings or `seconds` have passed.

        Switches: never; this is the thread's own time.
        """
        longest = threading.TIMEOUT_MAX
        self._lock.acquire(timeout=longest if seconds is None else min(max(seconds, 0.0), longest))


def sleep(seconds: float) -> None:
    """Sleep as whoever runs now can: the greenlet, or the thread.

    Switches: may.
    """
    bell_here().wait(seconds)
