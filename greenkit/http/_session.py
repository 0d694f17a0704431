"""Open HTTP sessions that fit the number of greenlets that use them.

This file checks what the caller wants; `_requests` adapts the library, and is loaded by the first
session, so that `greenkit.http` can be imported where requests is not installed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenkit.http._observer import Observer
    from greenkit.http._requests import SizedSession

__all__ = ["session"]


def session(
    concurrency: int,
    *,
    limiter: Observer | None = None,
    timeout: float | tuple[float, float] = (5.0, 120.0),
    verify: bool | str = True,
) -> SizedSession:
    """Open a `requests.Session` for `concurrency` greenlets; share it between all of them.

    It keeps up to `concurrency` connections to each host and never opens more: further calls wait
    for one, at most as long as they would wait for an answer. All sessions of a process share one
    SSLContext per CA bundle, which saves its loading (about 20 ms of CPU) for every connection.

    Args:
        concurrency: Calls at once to one host, at least 1.
        limiter: Told status and headers of every answer. It does not wait for permits: take them
            around the call.
        timeout: Seconds to connect, and seconds between two pieces of an answer, for calls that
            give none. One number is both.
        verify: True, False or the path of a CA bundle. True takes `REQUESTS_CA_BUNDLE` or
            `CURL_CA_BUNDLE` when set; unlike in plain requests a path or False given here wins
            over them.

    Raises:
        ImportError: requests is not installed; the extra `greenkit[http]` brings it.

    Switches: never.
    """
    if concurrency < 1:
        raise ValueError(f"a session serves at least 1 call at once, not {concurrency!r}")
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    if not (0 < connect < math.inf and 0 < read < math.inf):
        raise ValueError(
            f"a time-out is above 0 seconds and ends, not {timeout!r}; no call may wait for ever"
        )
    try:
        # Late: requests is optional.
        from greenkit.http._requests import SizedSession
    except ModuleNotFoundError as error:
        if error.name not in {"requests", "urllib3"}:
            raise
        raise ImportError(
            f'session() needs {error.name}: pip install "greenkit[http]"', name=error.name
        ) from error
    return SizedSession(concurrency, observer=limiter, timeout=(connect, read), verify=verify)
