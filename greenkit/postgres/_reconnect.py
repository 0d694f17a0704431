"""Whether the server refuses connections, and when to try again.

Without it each caller that finds no connection would try for itself: ten thousand refused connects during a
restart, and an error for each. While the server refuses, one attempt at a time is made, with exponential
back-off. Errors that waiting cannot mend (a wrong password, a missing database) are raised at once. A full
server is no outage: the open connections go on being lent.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from greenkit.postgres._connect_errors import is_full, is_hopeless

if TYPE_CHECKING:
    from greenkit._clock import Clock

__all__ = ["ReconnectState"]

_FIRST, _LONGEST = 0.05, 1.0  # seconds between two attempts


class ReconnectState:
    """Hold what is known of a server that refuses: since when, why, and when to try next.

    Args:
        timeout: Seconds from its beginning for which callers wait; after that, and always with
            0, they get the server's error at once.
        clock: What the seconds are read from.
    """

    def __init__(self, *, timeout: float, clock: Clock) -> None:
        self._timeout_seconds, self._clock = timeout, clock
        self._was_there = False
        self._since: float | None = None
        self._next = 0.0
        self._delay = _FIRST
        self.full_at: int | None = None
        self.errors = 0
        self.last: Exception | None = None

    @property
    def seconds(self) -> float:
        """Return how long the server has been away; 0.0 when it is there, be it full."""
        since = self._since
        return 0.0 if since is None or self.full_at is not None else self._clock.now() - since

    @property
    def refuses(self) -> bool:
        """Tell whether the last attempt was refused."""
        return self._since is not None

    @property
    def pause(self) -> float:
        """Return the seconds until the next attempt should be made; 0.0 when it may be made now."""
        return 0.0 if self._since is None else max(0.0, self._next - self._clock.now())

    @property
    def is_past_timeout(self) -> bool:
        """Tell whether callers get the server's error at once. Never while it is only full."""
        since = self._since
        return (
            since is not None and self.full_at is None and self._clock.now() - since >= self._timeout_seconds
        )

    def note_success(self) -> None:
        """Note that the server let us in."""
        self._was_there, self._since, self._delay, self.full_at = True, None, _FIRST, None

    def note_failure(self, error: Exception, *, open_now: int) -> bool:
        """Note a refused attempt; tell whether it is worth another.

        A server that was never reached is more likely a wrong setting than an outage. One that is full was
        reached: of a cold pool's first attempts some are refused before others are let in.

        Args:
            error: The driver's.
            open_now: Connections of this pool that the server has let in.
        """
        self.errors += 1
        self.last = error
        full = is_full(error)
        if is_hopeless(error) or not (self._was_there or full):
            self._since = self.full_at = None  # it answers: it is not away
            return False
        now = self._clock.now()
        if self._since is None or (self.full_at is not None) != full:
            self._since = now
        self.full_at = open_now if full else None
        self._next = now + self._delay * random.uniform(0.5, 1.0)
        self._delay = min(2 * self._delay, _LONGEST)
        return not self.is_past_timeout
