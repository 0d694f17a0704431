"""Make HTTP clients fit a process of many greenlets: pool sizes, shared TLS, time-outs, feedback.

The door of the http room. It loads neither requests nor httpx; the first `session()` or
`tune_httpx()` does. It knows nothing of limits: what a session reports to is an `Observer`.
"""

from __future__ import annotations

from greenkit.http._httpx import tune_httpx
from greenkit.http._observer import Observer
from greenkit.http._session import session

__all__ = ["Observer", "session", "tune_httpx"]
