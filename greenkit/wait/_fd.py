"""Wait until a file descriptor can be read or written, with reusable watchers.

`gevent.socket.wait_read` makes and closes a watcher for every wait, a third of the cost of a short
Postgres query. A driver waits on one descriptor all its life, so it keeps one `FdWatch`.
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

    Bound to the hub of the thread that made it. Call `close()` before closing the descriptor:
    its number may belong to another file right after.

    Args:
        fd: An open descriptor that can be polled.

    Attributes:
        hub: The hub it is bound to; in another thread or after a fork, make a new watch.
    """

    __slots__ = ("_waiting", "_watchers", "fd", "hub")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.hub: Any = get_hub()
        self._watchers: dict[int, Any] = {}
        self._waiting: _Wait | None = None

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
        """Close the watchers, and end a pending wait; the watch cannot be used afterwards.

        Call it in the thread whose hub it is bound to.

        Switches: never.
        """
        while self._watchers:
            self._watchers.popitem()[1].close()
        pending = self._waiting
        if pending is not None:
            pending.closed = True  # the hub gets no events of a closed descriptor
            self.hub.loop.run_callback(pending.ready)

    def _wait(self, events: int, timeout: float | None) -> None:
        hub = self.hub
        if hub is getcurrent():
            hub_to_wait_in()  # raises and says why the hub may not wait
        watcher = self._watchers.get(events)
        if watcher is None:
            watcher = self._watchers[events] = hub.loop.io(self.fd, events)
        pending = self._waiting = _Wait()
        timer = None
        try:
            watcher.start(pending.ready)
            if timeout is not None:
                timer = hub.loop.timer(max(timeout, 0.0))
                timer.start(pending.expire)
            hub.switch()
        finally:
            pending.greenlet = self._waiting = None
            watcher.stop()
            if timer is not None:
                timer.close()
        if pending.closed:
            raise OSError(errno.EBADF, f"file descriptor {self.fd} was closed during a wait for it")
        if pending.expired:
            verb = "readable" if events == _READ else "writable"
            msg = f"file descriptor {self.fd} was not {verb} within {timeout:g} s"
            raise WaitTimeout(msg)


class _Wait:
    """One wait: the first of descriptor and timer switches back, the second does nothing."""

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
