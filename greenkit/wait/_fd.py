"""Wait until a file descriptor can be read or written, with watchers made once.

`gevent.socket.wait_read` makes and closes a watcher per wait, a third of the cost of a short
Postgres query; a driver waits on one descriptor for ever, so it keeps one `FdWatch`.
"""

from __future__ import annotations

import errno
from typing import Any

from gevent import get_hub
from greenlet import getcurrent

from greenkit.errors import WaitTimeout
from greenkit.wait._mailbox import hub_to_wait_in

__all__ = ["FdWatch"]

_READ, _WRITE = 1, 2  # libev's EV_READ and EV_WRITE


class FdWatch:
    """Keep the watchers of one open file descriptor, for one greenlet at a time.

    Bound to the hub of the thread that made it. `close()` it before the descriptor is closed:
    the number may be another file's the moment after.

    Args:
        fd: An open descriptor that can be polled.

    Attributes:
        hub: The hub it is bound to; in another thread or after a fork, make a new watch.
    """

    __slots__ = ("_turn", "_watchers", "fd", "hub")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.hub: Any = get_hub()
        self._watchers: dict[int, Any] = {}
        self._turn: _Turn | None = None

    def __repr__(self) -> str:
        return f"<FdWatch fd={self.fd}>"

    def wait_read(self, timeout: float | None) -> None:
        """Return once there is something to read, or the other end closed.

        Raises:
            WaitTimeout: Nothing came within `timeout` seconds (None: for ever).
            OSError: Another greenlet called `close()` meanwhile.

        Switches: may.
        """
        self._wait(_READ, timeout)

    def wait_write(self, timeout: float | None) -> None:
        """Return once writing will not block.

        Raises:
            WaitTimeout: Still full after `timeout` seconds (None: for ever).
            OSError: Another greenlet called `close()` meanwhile.

        Switches: may.
        """
        self._wait(_WRITE, timeout)

    def wait_either(self, timeout: float | None) -> None:
        """Return once reading or writing will not block; raises as `wait_write()` does.

        Switches: may.
        """
        self._wait(_READ | _WRITE, timeout)

    def close(self) -> None:
        """Let go of the watchers, and end a wait under way; the watch must not be used again.

        From the thread whose hub it is bound to.

        Switches: never.
        """
        while self._watchers:
            self._watchers.popitem()[1].close()
        turn = self._turn
        if turn is not None:
            turn.closed = True  # of a closed descriptor the hub would never hear
            self.hub.loop.run_callback(turn.ready)

    def _wait(self, events: int, timeout: float | None) -> None:
        hub = self.hub
        if hub is getcurrent():
            hub_to_wait_in()  # which says why the hub may not wait
        watcher = self._watchers.get(events)
        if watcher is None:
            watcher = self._watchers[events] = hub.loop.io(self.fd, events)
        turn = self._turn = _Turn()
        timer = None
        try:
            watcher.start(turn.ready)
            if timeout is not None:
                timer = hub.loop.timer(max(timeout, 0.0))
                timer.start(turn.expire)
            hub.switch()
        finally:
            turn.greenlet = self._turn = None
            watcher.stop()
            if timer is not None:
                timer.close()
        if turn.closed:
            raise OSError(errno.EBADF, f"file descriptor {self.fd} was closed while somebody waited for it")
        if turn.expired:
            verb = "readable" if events == _READ else "writable"
            msg = f"file descriptor {self.fd} was not {verb} within {timeout:g} s"
            raise WaitTimeout(msg)


class _Turn:
    """One wait: the first of descriptor and timer switches back, the other finds nobody."""

    __slots__ = ("closed", "expired", "greenlet")

    def __init__(self) -> None:
        self.greenlet: Any = getcurrent()
        self.closed = self.expired = False

    def ready(self) -> None:
        greenlet, self.greenlet = self.greenlet, None
        if greenlet is not None:
            greenlet.switch()

    def expire(self) -> None:
        self.expired = self.greenlet is not None
        self.ready()
