"""Make HTTP clients fit a process of many greenlets: pool sizes, shared TLS, time-outs, feedback.

The door of the http room. It loads neither requests nor httpx nor an SDK; the first client of each
does. It knows nothing of limits: what a client reports to is an `Observer`.
"""

from __future__ import annotations

from greenkit.http._clients import anthropic_client, openai_client
from greenkit.http._dns import coalesce_lookups
from greenkit.http._httpx import tune_httpx
from greenkit.http._httpx_transport import HTTPTransport
from greenkit.http._observer import Observer
from greenkit.http._session import session
from greenkit.http._warmup import warmup

__all__ = [
    "HTTPTransport",
    "Observer",
    "anthropic_client",
    "coalesce_lookups",
    "openai_client",
    "session",
    "tune_httpx",
    "warmup",
]
