"""Ride out a server that refuses: one caller knocks at a time, the others wait for the news.

Without it everybody who finds no connection tries for himself: ten thousand refused connects in
the seconds of a restart, and an error for each. Here the slots' holders queue; the first in line
tries with growing pauses, and when it is let in the others follow at once.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from greenkit.errors import WaitTimeout
from greenkit.postgres._refusals import is_hopeless
from greenkit.wait import Deadline, WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock

__all__ = ["Outage"]

_T = TypeVar("_T")
_FIRST, _LONGEST = 0.05, 1.0  # seconds between two knocks


class Outage:
    """Know whether the server is away, since when, and when to try next.

    Args:
        patience: Seconds from its beginning for which callers wait; after that, and always with
            0, they get the server's error at once.
        clock: What the seconds are read from.
    """

    def __init__(self, *, patience: float, clock: Clock) -> None:
        self._patience, self._clock = patience, clock
        self._line = WaitLine(1, name="connecting")
        self._was_there = False
        self._since: float | None = None
        self._next = 0.0
        self._pause = _FIRST
        self.errors = 0
        self.last: Exception | None = None

    @property
    def seconds(self) -> float:
        """Return how long the server has been away; 0.0 when it is there."""
        since = self._since
        return 0.0 if since is None else self._clock.now() - since

    def connect(self, attempt: Callable[[], _T], *, refused: type[Exception], until: Deadline) -> _T:
        """Return what `attempt` returns, trying again while the server is away.

        A server that was never reached is more likely a wrong setting than an outage: its error
        is raised at once.

        Args:
            attempt: Opens a connection.
            refused: The driver's class for a server that does not let us in.
            until: When to give up.

        Raises:
            WaitTimeout: `until` passed; its cause is the server's last error.

        Switches: may.
        """
        while True:
            if self._since is None:
                try:
                    return self._try(attempt)
                except refused as error:
                    self._bear(error, until)
            self._take_turn(refused, until)
            try:
                if self._since is not None:  # else it was over when our turn came
                    return self._knock(attempt, refused, until)
            finally:
                self._line.release()

    def _try(self, attempt: Callable[[], _T]) -> _T:
        try:
            made = attempt()
        except Exception as error:
            self.errors += 1
            self.last = error
            raise
        self._was_there, self._since, self._pause = True, None, _FIRST
        return made

    def _bear(self, error: Exception, until: Deadline) -> None:
        """Note a failed attempt and return, or raise when there is nothing to wait for."""
        if not self._was_there:
            raise error
        if is_hopeless(error):
            self._since = None  # it is there and says no
            raise error
        now = self._clock.now()
        if self._since is None:
            self._since = now
        self._next = now + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, _LONGEST)
        if until.expired:
            raise WaitTimeout(str(error)) from error
        if self.seconds >= self._patience:
            raise error

    def _take_turn(self, refused: type[Exception], until: Deadline) -> None:
        if self.seconds < self._patience:
            try:
                self._line.acquire(timeout=until.timeout())
            except WaitTimeout:
                raise WaitTimeout(str(self.last)) from self.last
        elif not self._line.acquire_nowait():
            raise refused(str(self.last))  # somebody is trying; we do not wait

    def _knock(self, attempt: Callable[[], _T], refused: type[Exception], until: Deadline) -> _T:
        while True:
            pause = max(0.0, self._next - self._clock.now())
            if pause and self.seconds >= self._patience:
                raise refused(str(self.last))  # somebody has just tried
            time.sleep(min(pause, until.remaining()))
            if until.expired:
                raise WaitTimeout(str(self.last)) from self.last
            try:
                return self._try(attempt)
            except refused as error:
                self._bear(error, until)
