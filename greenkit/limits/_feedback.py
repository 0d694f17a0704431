"""Understand how a call ended, whatever library made it: what it cost, whether to try again.

Looks at attributes (`status_code`, `response.headers`, `code`) and at the chain of causes, never
at a client library's classes, so that none need be imported. Pure but for the wall clock, which a
`Retry-After` that is a date is measured against when the server sent no `Date`.
"""

from __future__ import annotations

import enum
import socket
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

from greenkit.errors import GreenkitError, RateLimited

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "BUSY",
    "LONGEST_PAUSE",
    "TOO_MANY",
    "Ending",
    "ending_of",
    "header_in",
    "headers_of",
    "heals",
    "number_in",
    "retry_after_in",
    "status_of",
    "too_busy",
    "worth_another",
]

# A server once asked for 3.2 days and a client slept them. Whoever must wait longer than this is
# told 429 again, which costs one request every two minutes.
LONGEST_PAUSE = 120.0

TOO_MANY = 429
BUSY = frozenset({503, 529})
_TRANSIENT = frozenset({408, 409, 425, 429})
# A server that is asked too much at once answers so, or not in time.
_OVERLOADED = frozenset({408, 429, 503, 504, 529})
_SERVER_ERROR = 500


class Ending(enum.Enum):
    """Say how a call ended, as far as its cost goes."""

    SPENT = "it went out, or may have: the cost stands"
    REJECTED = "the server refused it with 429: the request counts, the rest does not"
    NEVER_SENT = "it never left this machine: nothing counts"


def ending_of(error: BaseException | None) -> Ending:
    """Return what `error`, raised by the call itself, says about its cost.

    Switches: never.
    """
    if error is None:
        return Ending.SPENT
    if isinstance(error, RateLimited) or status_of(error) == TOO_MANY:
        return Ending.REJECTED
    # The connection was refused or the name unknown: clients wrap these, and chain them.
    if any(isinstance(one, ConnectionRefusedError | socket.gaierror) for one in _chain(error)):
        return Ending.NEVER_SENT
    return Ending.SPENT


def worth_another(error: BaseException) -> bool:
    """Tell whether the same call may well succeed later.

    Yes for 408, 409, 425, 429, 5xx, and for connections that broke or timed out. No for an
    exhausted quota (it does not heal by waiting), for anything the server asks not to repeat
    (`x-should-retry: false`), for greenkit's own refusals, and for what is not an `Exception`
    (a kill, a `gevent.Timeout`).

    Switches: never.
    """
    if isinstance(error, RateLimited):
        return True
    if not isinstance(error, Exception) or isinstance(error, GreenkitError):
        return False
    if not heals(error):
        return False
    if header_in(headers_of(error), "x-should-retry") == "false":
        return False
    status = status_of(error)
    if status is not None:
        return status in _TRANSIENT or status >= _SERVER_ERROR
    return any(isinstance(one, ConnectionError | TimeoutError | socket.gaierror) for one in _chain(error))


def heals(error: BaseException) -> bool:
    """Tell whether waiting can help: an exhausted quota says 429 too, until somebody pays.

    Switches: never.
    """
    return getattr(error, "code", None) != "insufficient_quota"


def too_busy(error: BaseException) -> bool:
    """Tell whether the server had too much to do, or was too slow to answer.

    Switches: never.
    """
    if isinstance(error, RateLimited):
        return True
    status = status_of(error)
    if status is not None:
        return status in _OVERLOADED
    return any(isinstance(one, TimeoutError) for one in _chain(error))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status an error of any client library carries, or None.

    Switches: never.
    """
    response = getattr(error, "response", None)
    for thing, name in (
        (error, "status_code"),
        (error, "status"),
        (error, "code"),
        (response, "status_code"),
        (response, "status"),
    ):
        status = getattr(thing, name, None)
        if isinstance(status, int) and not isinstance(status, bool):
            return status
    return None


def headers_of(error: BaseException) -> Mapping[str, str]:
    """Return the headers of the response an error carries; empty when there are none.

    Switches: never.
    """
    for thing in (getattr(error, "response", None), error):
        headers: Any = getattr(thing, "headers", None)
        if hasattr(headers, "items"):
            return cast("Mapping[str, str]", headers)
    return {}


def retry_after_in(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a server asks to wait, at most `LONGEST_PAUSE`; None when it does not say.

    `retry-after-ms` goes before `Retry-After`, which may be seconds or an HTTP date. What cannot
    be read is taken as not said.

    Switches: never.
    """
    millis = number_in(header_in(headers, "retry-after-ms"))
    if millis is not None:
        return _capped(millis / 1000.0)
    text = header_in(headers, "retry-after")
    seconds = number_in(text)
    if seconds is None and text:
        seconds = _seconds_until(text, header_in(headers, "date"))
    return None if seconds is None else _capped(seconds)


def _capped(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def _seconds_until(text: str, sent: str) -> float | None:
    then = _date(text)
    if then is None:
        return None
    # The server's own Date: its clock and ours need not agree.
    now = _date(sent) or datetime.fromtimestamp(time.time(), timezone.utc)
    return (then - now).total_seconds()


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)


def number_in(text: str) -> float | None:
    """Return the number `text` spells, or None.

    Switches: never.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number else None  # noqa: PLR0124 - NaN is no number


def header_in(headers: Mapping[str, Any], name: str) -> str:
    """Return the header in lower case or as the mapping spells it; "" when absent."""
    value = headers.get(name)
    if value is None:
        value = next((one for key, one in headers.items() if str(key).lower() == name), "")
    return str(value).strip()


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    here: BaseException | None = error
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        yield here
        here = here.__cause__ or here.__context__
