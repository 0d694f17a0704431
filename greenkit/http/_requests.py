"""Adapt requests and urllib3: pool size, shared TLS, default timeouts, reporting answers.

Written against requests 2.32 to 2.34 and urllib3 2. What it changes is done once per session or
per connection; a call costs two attribute look-ups more than in plain requests.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import poolmanager
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import EmptyPoolError

from greenkit.http._slots import Slots
from greenkit.http._tls import shared_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3._base_connection import BaseHTTPConnection

    from greenkit.http._observer import Observer

__all__ = ["SizedAdapter", "SizedSession"]


class SizedSession(requests.Session):
    """Be a `requests.Session` whose pool has the size of its concurrency; see `session()`."""

    def __init__(
        self, concurrency: int, *, observer: Observer | None, timeout: tuple[float, float], verify: bool | str
    ) -> None:
        super().__init__()
        self.verify = verify
        adapter = SizedAdapter(concurrency, observer=observer, timeout=timeout)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Let a `verify` of the session win over the environment, which requests has the other way."""
        if verify is None and self.verify is not True:
            verify = self.verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


class SizedAdapter(HTTPAdapter):
    """Send through a bounded pool, with one TLS context, never without a timeout."""

    __attrs__ = [*HTTPAdapter.__attrs__, "_observer", "_size", "_timeout"]  # noqa: RUF012 - requests' word

    def __init__(self, concurrency: int, *, observer: Observer | None, timeout: tuple[float, float]) -> None:
        self._observer = observer
        self._size = concurrency
        self._timeout = timeout
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
        self._use_our_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Make or find the pools to a proxy, of our classes too."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not known:
            self._use_our_pools(manager)
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Name the shared context instead of a bundle, where one can be shared."""
        attributes: Any = super().build_connection_pool_key_attributes(request, verify, cert)
        host, pool = attributes
        if host["scheme"] == "https" and _can_share(verify, cert):
            pool.pop("ca_certs", None)
            pool.pop("ca_cert_dir", None)
            pool["ssl_context"] = shared_context(None if verify is True else verify)
        return attributes

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave a pool with the shared context alone: its bundle is loaded."""
        # Setting ca_certs here, as requests does, has urllib3 load it again for each connection.
        if not (_can_share(verify, cert) and url.lower().startswith("https")):
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - requests' signature
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002 - see above
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send, and report the answer.

        Raises:
            requests.exceptions.ConnectTimeout: No connection came free in time; nothing was sent.
        """
        try:
            response = super().send(
                request,
                stream,
                self._timeout if timeout is None else timeout,
                verify,
                cert,
                proxies,
            )
        except EmptyPoolError as error:
            message = (
                f"all {self._size} connections to {error.pool.host} were in use for {self._timeout[1]:g} s; "
                "nothing was sent. Give session() a higher concurrency, or close streamed responses"
            )
            raise requests.exceptions.ConnectTimeout(message, request=request) from error
        if self._observer is not None:
            try:
                self._observer.observe(response.status_code, response.headers)
            except BaseException:
                response.close()  # the caller gets no response, so nobody else would free its connection
                raise
        return response

    def _use_our_pools(self, manager: Any) -> None:
        if manager.pool_classes_by_scheme is not poolmanager.pool_classes_by_scheme:
            return  # a SOCKS proxy: its pools are of classes of their own
        wait = self._timeout[1]
        manager.pool_classes_by_scheme = {
            "http": partial(_PlainPool, pool_wait=wait),
            "https": partial(_TLSPool, pool_wait=wait),
        }


class _PlainPool(HTTPConnectionPool):
    """Wait for a free connection in order, and not for ever, as requests would."""

    QueueCls = Slots  # type: ignore[assignment]  # urllib3 calls get, put and qsize only

    def __init__(self, *args: Any, pool_wait: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pool_wait = pool_wait

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        return super()._get_conn(self._pool_wait if timeout is None else timeout)


class _TLSPool(_PlainPool, HTTPSConnectionPool):
    """Wait likewise, over TLS."""


def _can_share(verify: Any, cert: Any) -> bool:
    # A client certificate is loaded into the context, and verify=False changes it: not shared.
    return cert is None and (verify is True or (isinstance(verify, str) and verify != ""))
