"""Take turns in the middle of work that never has to wait.

`gevent.sleep(0)` is not enough: the hub runs fifty callbacks before it looks at sockets and timers
again (gevent 26, `CALLBACK_CHECK_COUNT`), and who gives way every two milliseconds is one of them each
time. Measured: nobody else's socket was read for 100 ms.
"""

from __future__ import annotations

import time

from gevent import get_hub

__all__ = ["Turn"]

_LENGTH = 0.002  # seconds of work before others have the hub


class Turn:
    """Measure how long this greenlet has had the hub."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Note that others have just run. Switches: never."""
        self._began = time.monotonic()

    def give_way(self) -> None:
        """Let the hub look at everything, if it is time. Switches: may."""
        if time.monotonic() - self._began > _LENGTH:
            _let_the_hub_look()
            self.renew()


def _let_the_hub_look() -> None:
    hub = get_hub()
    knock = hub.loop.async_()  # comes with the sockets, and without the millisecond a timer waits
    try:
        hub.loop.run_callback(knock.send)  # once it is waited for; one sent before is lost
        hub.wait(knock)
    finally:
        knock.close()
