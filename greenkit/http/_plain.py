"""Send plain calls of a session the short way, past the parts of requests they have no use for.

A plain call has an address, headers, JSON or bytes, perhaps a name and a password; nothing in between is
replaced (`_hooked`), and no proxy is meant for it. Its answer is read whole. All others, and every redirect,
go through requests' own code, over the same connections. Written against requests 2.32 to 2.34.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

import requests
from requests.utils import select_proxy
from urllib3.exceptions import LocationValueError
from urllib3.util import Retry, parse_url

from greenkit.http._contexts import bundle_of_environment
from greenkit.http._environment import proxies_for
from greenkit.http._fetch import Order
from greenkit.http._hooked import nobody_looks
from greenkit.http._pools import OUR_CONNECTIONS
from greenkit.http._prepare import prepared_of

if TYPE_CHECKING:
    from requests import PreparedRequest

__all__ = ["send_plainly"]

_cookies: Any = requests.cookies  # its stub has no types
_OPTIONS = frozenset(
    {"data", "json", "headers", "auth", "timeout", "allow_redirects", "verify", "cert", "stream"}
)
# What a program may have put on one session or adapter, in a test for example.
_METHODS = frozenset(
    {"send", "request", "prepare_request", "get_adapter", "merge_environment_settings", "resolve_redirects"}
)
# They say how a message is framed, or whether there is a connection after it.
_FRAMING = frozenset({"host", "transfer-encoding", "expect", "upgrade", "te", "trailer"})
_PORTS = {"http": 80, "https": 443}


def send_plainly(session: Any, kind: type[Any], method: Any, url: Any, options: dict[str, Any]) -> Any:
    """Return the response to a plain call of a `SizedSession`, or None for one that requests is to send.

    Args:
        session: Whose call it is.
        kind: Of the adapter that can send it, no subclass.
        method: As `Session.request()` has it.
        url: Likewise.
        options: Likewise.

    Switches: may.
    """
    for name, value in options.items():
        if value is not None and name not in _OPTIONS:
            return None
    if options.get("stream") or session.stream or not nobody_looks():
        return None
    if not _METHODS.isdisjoint(session.__dict__):
        return None
    option = options.get
    call = prepared_of(
        session,
        method,
        url,
        data=option("data") or {},
        json=option("json"),
        headers=option("headers") or {},
        auth=option("auth"),
    )
    if call is None:
        return None
    adapter = session.get_adapter(call.url)
    if type(adapter) is not kind or not _METHODS.isdisjoint(adapter.__dict__):
        return None
    sending = _sending(session, adapter, call, options)
    if sending is None:
        return None
    pool, order, settings = sending
    start = perf_counter()
    response = adapter.send_plain(pool, order)
    response.elapsed = timedelta(seconds=perf_counter() - start)
    if "set-cookie" in response.headers:
        _cookies.extract_cookies_to_jar(session.cookies, call, response.raw)
    if response.is_redirect:
        response = _redirected(session, response, settings, follow=option("allow_redirects", True))
    _ = response.content  # raises what broke it off
    return response


def _redirected(session: Any, response: Any, settings: dict[str, Any], *, follow: bool) -> Any:
    """Go where the server points to, or note where that is, as `Session.send()` does."""
    call = response.request
    if not follow:
        gone = session.resolve_redirects(response, call, yield_requests=True, **settings)
        response._next = next(gone, None)
        return response
    history = [response, *session.resolve_redirects(response, call, **settings)]
    last = history.pop()
    if history:
        last.history = history
    return last


def _sending(
    session: Any, adapter: Any, call: PreparedRequest, options: dict[str, Any]
) -> tuple[Any, Order, dict[str, Any]] | None:
    """Return (pool, what goes over it, requests' words for it), or None where more is asked for."""
    retries, timeout = adapter.max_retries, _timeouts(adapter, options.get("timeout"))
    if type(retries) is not Retry or retries.total != 0 or retries.read is not False or timeout is None:
        return None
    address = str(call.url)
    proxies = {**(proxies_for(address) if session.trust_env else {}), **session.proxies}
    if proxies and select_proxy(address, proxies) is not None:
        return None
    verify, cert = _trust(session, options.get("verify")), options.get("cert") or session.cert
    head = _head(call)
    if head is None:
        return None
    try:
        pool = adapter.pool_for(call, verify, cert)
    except LocationValueError:
        return None
    if pool.ConnectionCls not in OUR_CONNECTIONS:
        return None
    settings = {"stream": False, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
    return pool, Order(call, *head, *timeout), settings


def _trust(session: Any, verify: Any) -> Any:
    """Return the authorities to trust, as `SizedSession.merge_environment_settings()` does."""
    if verify is None and session.verify is not True:
        return session.verify
    if session.trust_env and (verify is True or verify is None):
        verify = bundle_of_environment() or verify
    return session.verify if verify is None else verify


def _timeouts(adapter: Any, timeout: Any) -> tuple[float | None, float | None] | None:
    """Return (connect, read) where both are plain numbers above 0 or None."""
    if timeout is None:
        return adapter.timeout  # type: ignore[no-any-return]
    pair: tuple[Any, ...] = timeout if type(timeout) is tuple else (timeout, timeout)
    if len(pair) != 2:
        return None
    for seconds in pair:
        if seconds is not None and not (type(seconds) in {int, float} and seconds > 0):
            return None
    return pair[0], pair[1]


def _head(call: PreparedRequest) -> tuple[str, bytes] | None:
    """Return (target, request line and headers), or None where http.client has more to say."""
    where = _where(call.url or "")
    if where is None:
        return None
    target, host = where
    lines, names = [f"{call.method} {target} HTTP/1.1\r\nHost: {host}\r\n"], set()
    headers: Any = call.headers  # bytes may be among the values
    for name, value in headers.items():
        lower = name.lower()
        names.add(lower)
        if type(value) is not str or (lower == "connection" and value.lower() != "keep-alive"):
            return None
        lines.append(f"{name}: {value}\r\n")
    if not names.isdisjoint(_FRAMING) or not {"user-agent", "accept-encoding"} <= names:
        return None
    lines.append("\r\n")
    head = "".join(lines)
    # One line each, and nothing that could end one.
    if not head.isascii() or head.count("\r\n") != len(lines) + 1 or head.count("\n") != len(lines) + 1:
        return None
    return target, head.encode()


@lru_cache(maxsize=1024)
def _where(address: str) -> tuple[str, str] | None:
    """Return (target, host with its port) of an address."""
    found = parse_url(address)
    if found.host is None or found.scheme not in _PORTS or ":" in found.host:
        return None
    port = found.port
    return found.request_uri, found.host if port in {None, _PORTS[found.scheme]} else f"{found.host}:{port}"
