"""Open HTTP sessions that fit the number of greenlets that use them.

This file checks what the caller wants; `_requests` adapts the library, and is loaded by the first
session, so that `greenkit.http` can be imported where requests is not installed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from greenkit.http._dns import coalesce_lookups
from greenkit.http._observer import check_observer
from greenkit.http._retry_after import check_max_wait

if TYPE_CHECKING:
    from greenkit.http._observer import Observers
    from greenkit.http._requests import SizedSession

__all__ = ["check_concurrency", "check_timeout", "session"]


def session(
    concurrency: int,
    *,
    limiter: Observers | None = None,
    timeout: float | tuple[float, float] = (5.0, 120.0),
    verify: bool | str = True,
    max_wait: float | None = None,
) -> SizedSession:
    """Open a `requests.Session` for `concurrency` greenlets; share it between all of them.

    It keeps up to `concurrency` connections to each host and never opens more: further calls wait
    for one, at most as long as they would wait for an answer. All sessions of a process share one
    SSLContext per CA bundle and client certificate, which saves its loading (about 20 ms of CPU) for
    every connection; lookups of one name by many greenlets at once are one lookup. A response that
    is dropped half-read gives its connection's place back.

    Args:
        concurrency: Calls at once to one host, at least 1.
        limiter: Told status and headers of every answer. It does not wait for permits: take them
            around the call. Where each host has a limit of its own, a function that gets the address
            of a call and returns the host's: `lambda url: hosts.key(urlsplit(url).hostname)`.
        timeout: Seconds to connect, and seconds between two pieces of an answer, for calls that
            give none. One number is both.
        verify: True, False or the path of a CA bundle. True takes `REQUESTS_CA_BUNDLE` or
            `CURL_CA_BUNDLE` when set; unlike in plain requests a path or False given here wins
            over them. A client certificate goes into the session's `cert`, as in requests.
        max_wait: Seconds a call may spend, in all, waiting to be sent again when the server
            answers 429, or 503 or 529 with a `Retry-After`. What would last longer is raised as
            `RateLimited` at once, so that a Celery task can free its slot; 0 never waits here. None
            returns such answers like any other. A repeat pays no permit of its own.

    Raises:
        ImportError: requests is not installed; the extra `greenkit[http]` brings it.

    Switches: never.
    """
    check_concurrency(concurrency)
    connect_read = check_timeout(timeout)
    check_max_wait(max_wait)
    check_observer(limiter)
    try:
        # Late: requests is optional.
        from greenkit.http._requests import SizedSession
    except ModuleNotFoundError as error:
        if error.name not in {"requests", "urllib3"}:
            raise
        raise ImportError(
            f'session() needs {error.name}: pip install "greenkit[http]"', name=error.name
        ) from error
    coalesce_lookups()
    return SizedSession(concurrency, observer=limiter, timeout=connect_read, verify=verify, max_wait=max_wait)


def check_concurrency(concurrency: int) -> None:
    """Refuse a session without a connection.

    Switches: never.
    """
    if concurrency < 1:
        raise ValueError(f"a session serves at least 1 call at once, not {concurrency!r}")


def check_timeout(timeout: float | tuple[float, float]) -> tuple[float, float]:
    """Return (connect, read) in seconds; refuse what never ends.

    Switches: never.
    """
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    if not (0 < connect < math.inf and 0 < read < math.inf):
        raise ValueError(
            f"a time-out is above 0 seconds and ends, not {timeout!r}; no call may wait for ever"
        )
    return connect, read
