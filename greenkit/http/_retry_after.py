"""Decide whether a call that was refused for now is repeated after a wait, or raises. Pure.

`greenkit.responses` reads what the response says. `greenkit.limits` applies it to all calls; here a call
applies it to itself.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from greenkit.errors import RateLimited

__all__ = ["ASKED", "WaitBudget", "check_max_wait", "limited"]

# The extension of an httpx response whose wait was too long: (seconds asked or None, max_wait).
ASKED = "greenkit.asked"
# The first wait after a 429 that does not say how long; doubled each time, with full jitter.
_FIRST_WAIT = 1.0
# The shortest first wait, doubled each time too: a server that always says "in 1 ms" is not called for ever.
_LEAST_WAIT = 0.05


class WaitBudget:
    """The seconds a call may wait in all, over its refusals: at most `max_wait`."""

    def __init__(self, max_wait: float) -> None:
        self._left = max_wait
        self._tries = 0

    def wait_for(self, asked: float | None) -> float | None:
        """Return the seconds to wait before the call is sent again, or None when it is too long.

        Args:
            asked: Seconds the server asks for; None when it refuses and does not say.

        Switches: never.
        """
        if asked is None or asked <= 0.0:
            seconds: float = _FIRST_WAIT * 2.0**self._tries * random.uniform(0.5, 1.0)
            least = seconds
        else:
            # All callers were told the same moment: spread them, and call none earlier than asked.
            least = max(asked, _LEAST_WAIT * 2.0**self._tries)
            seconds = least * random.uniform(1.0, 1.1)
        self._tries += 1
        if least > self._left:
            return None
        self._left -= seconds
        return seconds


def limited(error: Exception, *, host: str, status: int, asked: float | None, max_wait: float) -> RateLimited:
    """Return `error`, a client library's own, as one that is a `RateLimited` too.

    An `except` with the library's class catches it, and so does one with ours (as Celery's hook has).

    Switches: never.
    """
    until = "does not say for how long" if asked is None else f"asks to wait {asked:.3g} s"
    base: Any = type(error)
    kind = _also_limited(base)
    both: RateLimited = kind.__new__(kind, *error.args)
    both.__dict__.update(error.__dict__)
    message = (
        f"{host} answered {status} and {until}; max_wait={max_wait:g} s allows no more waiting here. The "
        "call was not done: catch RateLimited and call again later, or let it pass in a Celery task"
    )
    both.args = (message,)
    both.retry_after = asked
    return both


@cache
def _also_limited(kind: Any) -> type[RateLimited]:
    return type(
        "RateLimited", (RateLimited, kind), {"__module__": kind.__module__, "__reduce__": _reduce_to_ours}
    )


def _reduce_to_ours(error: RateLimited) -> tuple[Any, ...]:
    # Prefork workers pickle a task's error; a response with its socket cannot come along.
    return _ours, (str(error), error.retry_after)


def _ours(message: str, retry_after: float | None) -> RateLimited:
    return RateLimited(message, retry_after=retry_after)


def check_max_wait(max_wait: float | None) -> None:
    """Refuse a time that cannot be waited.

    Switches: never.
    """
    if max_wait is not None and not 0 <= max_wait < float("inf"):
        raise ValueError(f"max_wait is 0 seconds or more, and ends, not {max_wait!r}; None never waits")
