"""The head's alarm clock: wakes one sleeper after a time, or earlier when somebody rings.

Not `gevent.event.Event`: its timed wait raises and catches a `Timeout` at every expiry, and expiry
is the usual case here, once per grant.
"""

from __future__ import annotations

from typing import Any

from gevent import get_hub
from greenlet import getcurrent

__all__ = ["Bell"]


class Bell:
    """Wake the greenlet that made it, once, from any thread."""

    __slots__ = ("_greenlet", "_hub", "_parked", "rung")

    def __init__(self) -> None:
        self._hub: Any = get_hub()
        self._greenlet: Any = getcurrent()
        self._parked = False
        self.rung = False

    def ring(self) -> None:
        """End the sleep, also one that has not begun.

        Switches: never.
        """
        self.rung = True  # before the look at `_parked`: `wait()` does it the other way round
        if self._parked:
            self._hub.loop.run_callback_threadsafe(self._wake)

    def wait(self, seconds: float) -> None:
        """Sleep until it rings or `seconds` have passed; perhaps a little less, as timers are.

        Switches: may.
        """
        timer = self._hub.loop.timer(max(seconds, 0.0))
        try:
            timer.start(self._wake)
            self._parked = True
            if not self.rung:
                self._hub.switch()
        finally:
            self._parked = False
            timer.close()

    def _wake(self) -> None:
        # A kill that ran before us has taken the sleeper elsewhere.
        if self._parked:
            self._parked = False
            self._greenlet.switch()
