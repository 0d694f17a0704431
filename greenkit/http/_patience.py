"""Read what a server says when it has too much to do, and decide whether to wait that out. Pure.

`greenkit.limits` reads the same headers for its own ends (a pause for everybody); here one call
decides for itself whether to stay or to go.
"""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from greenkit.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ASKED", "Patience", "asked_to_wait", "check_max_wait", "is_exhausted", "limited"]

# The extension of an httpx response whose wait was too long: (seconds asked or None, max_wait).
ASKED = "greenkit.asked"
_TOO_MANY = 429
_BUSY = frozenset({503, 529})
# The first wait after a 429 that does not say how long; doubled each time, with full jitter.
_FIRST_WAIT = 1.0


class Patience:
    """Wait for at most `max_wait` seconds in all, over the answers to one call."""

    def __init__(self, max_wait: float) -> None:
        self._left = max_wait
        self._tries = 0

    def wait_for(self, asked: float | None) -> float | None:
        """Return the seconds to wait before the call is sent again, or None when it is too long.

        Args:
            asked: Seconds the server asks for; None when it refuses and does not say.

        Switches: never.
        """
        if asked is None:
            seconds: float = _FIRST_WAIT * 2.0**self._tries * random.uniform(0.5, 1.0)
        else:
            # Everybody was told the same; a little later each, never earlier than asked.
            seconds = asked * random.uniform(1.0, 1.1)
        self._tries += 1
        if (asked or seconds) > self._left:
            return None
        self._left -= seconds
        return seconds


def asked_to_wait(status: int, headers: Mapping[str, str]) -> tuple[bool, float | None]:
    """Tell whether an answer says "later", and after how many seconds (None: it does not say when).

    A 429 does. A 503 or 529 does when it names the time, else it is an error like another.
    `retry-after-ms` goes before `Retry-After`, which may be seconds or an HTTP date.

    Switches: never.
    """
    if status != _TOO_MANY and status not in _BUSY:
        return False, None
    seconds = _seconds(headers)
    return status == _TOO_MANY or seconds is not None, seconds


def is_exhausted(body: bytes) -> bool:
    """Tell whether a 429 means a quota that no waiting brings back (OpenAI's `insufficient_quota`).

    Switches: never.
    """
    return b"insufficient_quota" in body


def limited(error: Exception, *, host: str, status: int, asked: float | None, max_wait: float) -> RateLimited:
    """Return `error`, a client library's own, as one that is a `RateLimited` too.

    So both who catches the library's class and who catches ours (Celery's hook is one) get it.

    Switches: never.
    """
    until = "does not say for how long" if asked is None else f"asks to wait {asked:.3g} s"
    base: Any = type(error)
    kind = _also_limited(base)
    both: RateLimited = kind.__new__(kind, *error.args)
    both.__dict__.update(error.__dict__)
    message = (
        f"{host} answered {status} and {until}; max_wait={max_wait:g} s allows no more waiting here. The "
        "call was not done: catch RateLimited and come back later, or let it pass in a Celery task"
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


def _seconds(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) / unit
        except ValueError:
            seconds = _until(text, headers.get("date"))
        if seconds == seconds:  # noqa: PLR0124 - NaN is no number
            return max(0.0, seconds)
    return None


def _until(text: str, sent: str | None) -> float:
    try:
        then = parsedate_to_datetime(text).timestamp()
        # The server's own Date: its clock and ours need not agree.
        now = parsedate_to_datetime(sent).timestamp() if sent else time.time()
    except (TypeError, ValueError, IndexError, OverflowError):
        return float("nan")
    return then - now
