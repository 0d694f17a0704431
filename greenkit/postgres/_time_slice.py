"""Yield to the hub in the middle of work that never has to wait.

`gevent.sleep(0)` is not enough: the hub runs fifty callbacks before it polls sockets and timers again
(gevent 26, `CALLBACK_CHECK_COUNT`), and a greenlet that sleeps(0) every two milliseconds is one of them
each time. Measured: no other socket was read for 100 ms.
"""

from __future__ import annotations

import time

from gevent import get_hub

__all__ = ["TimeSlice"]

_LENGTH = 0.002  # seconds of work before others have the hub


class TimeSlice:
    """Measure how long this greenlet has had the hub."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Note that others have just run."""
        self._began = time.monotonic()

    def pass_on(self) -> None:
        """Let the hub look at everything, if it is time."""
        if time.monotonic() - self._began > _LENGTH:
            _run_hub_once()
            self.renew()


def _run_hub_once() -> None:
    hub = get_hub()
    wakeup = hub.loop.async_()  # comes with the sockets, and without the millisecond a timer waits
    try:
        hub.loop.run_callback(wakeup.send)  # once it is waited for; one sent before is lost
        hub.wait(wakeup)
    finally:
        wakeup.close()
