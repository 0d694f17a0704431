"""Make the httpx client an SDK stands on fit: pool, timeouts, shared TLS, answers reported, short waits.

The SDKs moved from httpx to httpx2; which one is found by looking at the SDK.
"""

from __future__ import annotations

import time
import weakref
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey

from greenkit.http._abandoned import Reaper
from greenkit.http._drain import Draining
from greenkit.http._exchange import CallStream
from greenkit.http._fair_hub import yield_if_due
from greenkit.http._httpx_context import context_for_httpx
from greenkit.http._httpx_transport import HTTPTransport
from greenkit.http._observer import report, says_more
from greenkit.http._retry_after import ASKED, WaitBudget
from greenkit.responses import read_answer

if TYPE_CHECKING:
    from types import ModuleType

    from greenkit.http._contexts import Trust
    from greenkit.http._observer import Observers

__all__ = ["fitting_client"]

# Seconds an idle connection is kept. The SDKs' 5 s make every burst of calls shake hands anew.
_IDLE = 60.0


def fitting_client(
    sdk: ModuleType,
    concurrency: int,
    *,
    observer: Observers | None,
    timeout: tuple[float, float],
    trust: Trust,
    max_wait: float | None,
) -> tuple[Any, Any]:
    """Return (http client, its time-outs) for `sdk`.

    Raises:
        OSError: There is no bundle or certificate at a path.

    Switches: never.
    """
    httpx = _httpx_of(sdk.DefaultHttpxClient)
    connect, read = timeout
    timeouts = httpx.Timeout(read, connect=connect)
    client = _fitting(sdk.DefaultHttpxClient)(
        verify=context_for_httpx(httpx, trust),
        limits=httpx.Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=_IDLE
        ),
        timeout=timeouts,
    )
    client.greenkit_observer, client.greenkit_max_wait = observer, max_wait
    client.greenkit_streams = Streams(concurrency)
    return client, timeouts


class _Fitting:
    """Mix into a client: report every answer, and sit out a "too many" that does not last."""

    greenkit_observer: Observers | None
    greenkit_max_wait: float | None
    greenkit_streams: Streams

    def _init_transport(self, **options: Any) -> Any:
        """Carry calls by our transport; what a proxy carries has httpx's own (httpx 0.28, httpx2 2.16)."""
        if options.get("transport") is not None or options.get("http2"):
            return super()._init_transport(**options)  # type: ignore[misc]  # the client mixed into
        return HTTPTransport(
            options["limits"].max_connections,
            verify=options["verify"],
            keep_idle=options["limits"].keepalive_expiry,
        )

    def send(self, request: Any, **options: Any) -> Any:
        max_wait = self.greenkit_max_wait
        if max_wait is None:
            return self._send_once(request, options)
        budget = WaitBudget(max_wait)
        while True:
            response = self._send_once(request, options)
            if not says_more(response.status_code):
                return response
            answer = read_answer(response.status_code, response.headers, body=_body_of(response))
            if not answer.later:
                return response
            seconds = budget.wait_for(answer.retry_after) if _can_repeat(request) else None
            if seconds is None:
                response.extensions[ASKED] = (answer.retry_after, max_wait)
                return response
            time.sleep(seconds)

    def _send_once(self, request: Any, options: dict[str, Any]) -> Any:
        yield_if_due()
        self.greenkit_streams.look()
        response = super().send(request, **options)  # type: ignore[misc]  # the client mixed into
        if options.get("stream"):
            self.greenkit_streams.add(response)
            _drain_at_close(response, request)
        if self.greenkit_observer is not None:
            try:
                status, url = response.status_code, str(response.request.url)  # after redirects
                body = _body_of(response) if says_more(status) else b""
                report(self.greenkit_observer, status, url=url, headers=response.headers, body=body)
            except BaseException:
                response.close()  # the caller gets no response, so no other code would free its connection
                raise
        return response


@cache
def _fitting(base: type[Any]) -> type[Any]:
    return type("FittingClient", (_Fitting, base), {})


class Streams:
    """Close streamed answers that were dropped before their end: httpx leaves them in its pool for ever.

    The SDKs close one when its iterator is collected, but not when that was never begun.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._reaper = Reaper()

    def add(self, response: Any) -> None:
        """Watch a response that has just come."""
        # What httpx binds to the response, without its reference to it: else it would never die.
        inner = getattr(response.stream, "_stream", None)
        if inner is not None and not response.is_closed:
            self._open.add(response)
            weakref.finalize(response, _close_soon, inner).atexit = False

    def look(self) -> None:
        """Look for dropped ones if all connections may be theirs."""
        if len(self._open) >= self._size and self._count() >= self._size:
            self._reaper.look(self._count)

    def _count(self) -> int:
        return sum(not response.is_closed for response in list(self._open))


def _drain_at_close(response: Any, request: Any) -> None:
    bound = response.stream
    inner = getattr(bound, "_stream", None)
    if inner is not None and not isinstance(inner, CallStream) and not response.is_closed:
        bound._stream = Draining(inner, request.extensions.get("timeout", {}))


def _close_soon(inner: Any) -> None:
    # Not here: the collector may run in the middle of the very pool whose lock closing takes.
    if monkey.is_module_patched("threading"):
        gevent.spawn(inner.close)


def _httpx_of(client: type[Any]) -> Any:
    base = next(base for base in client.__mro__ if base.__name__ == "Client")
    return import_module(base.__module__.partition(".")[0])


def _body_of(response: Any) -> bytes:
    """Return the body of a refusal, which httpx keeps; empty when it broke off."""
    try:
        body: bytes = response.read()
    except Exception:  # of httpx or httpx2; the status stands, and the reader of the body hears of it again
        return b""
    return body


def _can_repeat(request: Any) -> bool:
    # A request that has its body at hand; httpx makes reading another kind an error.
    return hasattr(request, "_content")
