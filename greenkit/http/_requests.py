"""Adapt requests: pool size, shared TLS, default timeouts, answers reported, waits kept short.

Written against requests 2.32 to 2.34 and urllib3 2. What it changes is done once per session or
per connection; the pools themselves are `_pools`'.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import rewind_body
from urllib3.exceptions import EmptyPoolError

from greenkit.http._contexts import Trust, bundle_of_environment
from greenkit.http._environment import proxies_for
from greenkit.http._fair_hub import yield_if_due
from greenkit.http._fetch import fetch
from greenkit.http._hooked import also_look_at
from greenkit.http._observer import report, says_more
from greenkit.http._plain import send_plainly
from greenkit.http._plain_response import response_of
from greenkit.http._pools import use_our_pools
from greenkit.http._prepare import prepared
from greenkit.http._retry_after import WaitBudget, limited
from greenkit.http._tls import context_for
from greenkit.responses import read_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit.http._fetch import Order
    from greenkit.http._observer import Observers

__all__ = ["SizedAdapter", "SizedSession"]

# Of pools that a session remembers; a PoolManager keeps ten.
_MOST_KEYS = 1000
_merge: Any = requests.sessions.merge_setting  # its stub has no types


class SizedSession(requests.Session):
    """Be a `requests.Session` whose pool has the size of its concurrency; see `session()`."""

    def __init__(self, concurrency: int, *, verify: bool | str, **options: Any) -> None:
        super().__init__()
        self.verify = verify
        adapter = SizedAdapter(concurrency, **options)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        """Send plain calls the short way, and all others as requests does."""
        if not args and type(self) is SizedSession:
            response = send_plainly(self, SizedAdapter, method, url, options)
            if response is not None:
                sent: requests.Response = response
                return sent
        return super().request(method, url, *args, **options)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare plain calls the short way, and all others as requests does."""
        return prepared(self, request) or super().prepare_request(request)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Let a `verify` of the session win over the environment, which requests has the other way."""
        if verify is None and self.verify is not True:
            verify = self.verify
        if not self.trust_env or proxies is None or "no_proxy" in proxies:
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        if verify is True or verify is None:
            verify = bundle_of_environment() or verify
        return {
            "proxies": _merge({**proxies_for(url), **proxies}, self.proxies),
            "stream": _merge(stream, self.stream),
            "verify": _merge(verify, self.verify),
            "cert": _merge(cert, self.cert),
        }


class SizedAdapter(HTTPAdapter):
    """Send through a bounded pool, with one TLS context, never without a timeout."""

    __attrs__ = [*HTTPAdapter.__attrs__, "_max_wait", "_observer", "_size", "_timeout"]  # noqa: RUF012 - requests' word

    def __init__(
        self,
        concurrency: int,
        *,
        observer: Observers | None,
        timeout: tuple[float, float],
        max_wait: float | None,
    ) -> None:
        self._observer = observer
        self._size = concurrency
        self._timeout = timeout
        self._max_wait = max_wait
        super().__init__(pool_maxsize=concurrency, pool_block=True)

    def __repr__(self) -> str:
        """Show the size and the timeouts."""
        return f"<SizedAdapter of {self._size}, timeout {self._timeout}>"

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002 - requests' signature
        **pool_kwargs: Any,
    ) -> None:
        """Make the pools, of our classes."""
        super().init_poolmanager(connections, maxsize, block=block, **pool_kwargs)
        use_our_pools(self.poolmanager, wait=self._timeout[1])
        self._keys: dict[Any, Any] = {}  # of the pools, by scheme and host and `verify`

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Make or find the pools to a proxy, of our classes too."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not known:
            use_our_pools(manager, wait=self._timeout[1])
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Name the shared context instead of files, for calls over TLS."""
        attributes: Any = super().build_connection_pool_key_attributes(request, verify, cert)
        host, pool = attributes
        if host["scheme"] == "https":
            for name in ("ca_certs", "ca_cert_dir", "cert_file", "key_file"):
                pool.pop(name, None)
            pool["ssl_context"] = context_for(Trust.of(verify, cert))
        return attributes

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the pool alone: its context has everything loaded."""
        # Setting ca_certs here, as requests does, has urllib3 load it again for each connection.

    @property
    def timeout(self) -> tuple[float, float]:
        """Seconds to connect, and between two pieces of an answer, for calls that give none."""
        return self._timeout

    def pool_for(self, request: requests.PreparedRequest, verify: Any, cert: Any) -> Any:
        """Return the pool of a call without a proxy, by a key that is worked out once. Switches: never."""
        if cert is not None:  # its file may have changed
            return self.get_connection_with_tls_context(request, verify, cert=cert)
        pools: Any = self.poolmanager.pools
        where = (*urlsplit(request.url or "")[:2], verify)
        pool = pools.get(self._keys.get(where))
        if pool is None:
            pool = self.get_connection_with_tls_context(request, verify)
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            self._keys[where] = next(key for key in pools.keys() if pools.get(key) is pool)  # noqa: SIM118 - no dict
        return pool

    def send_plain(self, pool: Any, order: Order) -> requests.Response:
        """Send a plain call over a connection of `pool`; otherwise as `send()`, and raises what that does."""

        def once() -> requests.Response:
            response: requests.Response = response_of(self, order.request, fetch(self, pool, order))
            return response

        return self._retrying(order.request, once)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - requests' signature
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002 - see above
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send, report the answer, and sit out a "too many" that does not last.

        Raises:
            requests.exceptions.ConnectTimeout: No connection came free in time; nothing was sent.
            RateLimited: The server asks for a longer wait than `max_wait`; also a
                `requests.exceptions.HTTPError`, with its `response`.
        """
        timeout = self._timeout if timeout is None else timeout
        return self._retrying(
            request, lambda: HTTPAdapter.send(self, request, stream, timeout, verify, cert, proxies)
        )

    def _retrying(
        self, request: requests.PreparedRequest, send: Callable[[], requests.Response]
    ) -> requests.Response:
        yield_if_due()
        if self._max_wait is None:
            return self._observed(request, send)
        budget = WaitBudget(self._max_wait)
        while True:
            response = self._observed(request, send)
            if not says_more(response.status_code):
                return response
            answer = read_answer(response.status_code, response.headers, body=_body_of(response))
            if not answer.later:
                return response
            seconds = budget.wait_for(answer.retry_after) if _can_repeat(request) else None
            if seconds is None:
                raise self._limited(response, answer.retry_after)
            time.sleep(seconds)

    def _observed(
        self, request: requests.PreparedRequest, send: Callable[[], requests.Response]
    ) -> requests.Response:
        try:
            response = send()
        except EmptyPoolError as error:
            message = (
                f"all {self._size} connections to {error.pool.host} were in use for {self._timeout[1]:g} s; "
                "nothing was sent. Give session() a higher concurrency, or close streamed responses"
            )
            raise requests.exceptions.ConnectTimeout(message, request=request) from error
        if self._observer is not None:
            try:
                status = response.status_code
                body = _body_of(response) if says_more(status) else b""
                report(self._observer, status, url=request.url or "", headers=response.headers, body=body)
            except BaseException:
                response.close()  # the caller gets no response, so no other code would free its connection
                raise
        return response

    def _limited(self, response: requests.Response, asked: float | None) -> Exception:
        error = requests.exceptions.HTTPError(response=response)
        host = urlsplit(response.url).hostname or response.url
        assert self._max_wait is not None
        return limited(error, host=host, status=response.status_code, asked=asked, max_wait=self._max_wait)


also_look_at(
    (SizedSession, "request prepare_request send merge_environment_settings get_adapter"),
    (SizedAdapter, "send build_response get_connection_with_tls_context request_url add_headers"),
)


def _body_of(response: requests.Response) -> bytes:
    """Return the body of a refusal, which requests keeps; empty when it broke off."""
    try:
        return response.content or b""
    except (requests.exceptions.RequestException, RuntimeError):
        return b""


def _can_repeat(request: requests.PreparedRequest) -> bool:
    """Tell whether the body is there once more; wind it back when it is a file."""
    body: object = request.body
    if body is None or isinstance(body, bytes | str):
        return True
    position: object = getattr(request, "_body_position", None)
    if not isinstance(position, int):
        return False  # a generator: what was sent of it is gone
    rewind_body(request)
    return True
