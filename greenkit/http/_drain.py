"""Read the last bytes of an answer before it is closed, so that its connection can be used again.

The sync OpenAI SDK closes a stream after the event [DONE], which comes before the end of the body: the
connection is thrown away, and every streamed call makes a new TLS handshake (openai 3.57 `_streaming.py`).
"""

from __future__ import annotations

import sys
from typing import Any

from greenlet import getcurrent

from greenkit._clock import MONOTONIC
from greenkit.wait import hub_here

__all__ = ["LONGEST", "MOST_BYTES", "Draining", "may_wait"]

# Seconds the end of an answer is waited for, and bytes read for it: a handshake takes more CPU than both.
LONGEST = 0.05
MOST_BYTES = 65_536


def may_wait(since: BaseException | None) -> bool:
    """Tell whether closing may wait for the end of an answer.

    Not while an exception other than `since` is handled: a kill or a time-out wants the caller gone, an
    iterator that is thrown away half-way has more coming than is worth reading, and may be closed by the
    collector, in the hub.

    Args:
        since: What was being handled when the call began.

    Switches: never.
    """
    error = sys.exc_info()[1]
    return (error is None or error is since) and getcurrent() is not hub_here()


class Draining:
    """Be the stream of an httpx response; closed before its end, it reads what little is left.

    Args:
        inner: The stream httpx made.
        timeouts: Those of the request, which the connection looks up before each read; changed here.
    """

    __slots__ = ("_closed", "_ended", "_inner", "_since", "_timeouts")

    def __init__(self, inner: Any, timeouts: dict[str, Any]) -> None:
        self._inner = inner
        self._timeouts = timeouts
        self._since = sys.exc_info()[1]
        self._ended = self._closed = False

    def __iter__(self) -> Any:
        yield from self._inner
        self._ended = True

    def close(self) -> None:
        """Read to the end if it is there within a twentieth of a second, then close."""
        closed, self._closed = self._closed, True
        try:
            if not closed and not self._ended and may_wait(self._since):
                self._drain()
        finally:
            self._inner.close()

    def _drain(self) -> None:
        deadline = MONOTONIC.now() + LONGEST
        read = 0
        try:
            self._timeouts["read"] = LONGEST
            for piece in self._inner:
                read += len(piece)
                left = deadline - MONOTONIC.now()
                if read > MOST_BYTES or left <= 0:
                    return
                self._timeouts["read"] = left
        except Exception:  # too late, broken off: it is closed as it would have been
            return
