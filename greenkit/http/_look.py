"""Look at a socket without a trip through the hub.

Clients ask each idle connection "is there something to read?" by a poll with a time-out of zero,
before every call. Under gevent's patch each of these is a trip through the hub.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

from gevent import monkey

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["native_look"]


def native_look() -> Callable[[Any], bool]:
    """Return a function that tells whether a socket has something to read, or is closed.

    Switches: never, and neither does the function.
    """
    # The native poll: with a time-out of zero it cannot block the hub.
    poll = monkey.get_original("select", "poll")
    readable = select.POLLIN

    def is_readable(sock: Any) -> bool:
        fd = -1 if sock is None else sock.fileno()
        if fd < 0:
            return True  # closed: as httpcore says, the next read gives its end at once
        look = poll()
        look.register(fd, readable)
        return bool(look.poll(0))

    return is_readable
