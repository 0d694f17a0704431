"""Give a host's connections to waiters in order, also when one of them is killed.

urllib3 keeps idle connections in a `queue.LifoQueue` and waits there. Under greenlets that has two
holes: a waiter killed after its wake-up takes the wake-up with it, and the other waiters sleep on; and
`urlopen()` puts a slot back that a killed waiter never had (urllib3 2.8, `connectionpool.py`, the
`finally` of `urlopen`), so the pool grows beyond its size. A `WaitLine` closes the first, counting
what is owed the second.
"""

from __future__ import annotations

import queue
from typing import Any

from greenkit.errors import WaitTimeout
from greenkit.wait import WaitLine

__all__ = ["Slots"]


class Slots(queue.Queue[Any]):
    """Be what urllib3 asks of its `QueueCls`: hold connections, or None for one not made yet.

    A queue by name only: VCR (9.4, `patch.py`) gives a slot back only where `isinstance()` says it is one.
    """

    def __init__(self, maxsize: int) -> None:  # nothing of a queue's own is made
        self._line = WaitLine(maxsize, name="connections")
        self._idle: list[Any] = []
        self._owed = 0  # slots that will be put back although no call took them

    def __repr__(self) -> str:
        """Show the line, and how many connections are open and idle."""
        return f"<Slots {self._line!r}, {len(self._idle)} idle>"

    def qsize(self) -> int:
        """Return how many calls could begin at once.

        Switches: never.
        """
        return self._line.statistics().free

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - queue's signature
        """Take a slot: the connection used last, or None when one must be made.

        Raises:
            queue.Empty: No slot came free in time.

        Switches: may.
        """
        if not self._line.acquire_nowait():
            if not block:
                raise queue.Empty
            self._wait(timeout)
        try:
            return self._idle.pop()
        except IndexError:  # asking first would race with another thread
            return None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002 - see get
        """Give a slot back, with its connection unless that is closed.

        Raises:
            queue.Full: Nothing is taken; urllib3 also says so while it fills a new queue.

        Switches: never.
        """
        if item is None and self._owed:
            # Whoever comes first pays: one empty slot is as good as another.
            self._owed -= 1
            return
        if self._line.statistics().in_use == 0:
            if item is None:
                return  # a new pool fills its queue with None; our slots are there from the start
            raise queue.Full
        if item is not None:
            self._idle.append(item)
        self._line.release()

    def _wait(self, timeout: float | None) -> None:
        try:
            self._line.acquire(timeout=timeout)
        except WaitTimeout:
            raise queue.Empty from None
        except BaseException:
            self._owed += 1
            raise
