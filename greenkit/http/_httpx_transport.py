"""A transport for httpx and httpx2, and for every SDK on one of them: HTTP/1.1 for many greenlets.

httpcore's pool looks through all connections and all waiting requests at every call, and h11 reads every
byte in Python. Here a call takes a slot and the connection used last, sends once, and reads what servers
usually send (see `_http1`). What is rare is left to httpx's own transport: upgrades and tracing. A proxy or
HTTP/2 is a matter of the client, which makes a transport of httpx's for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenkit.http._contexts import Trust
from greenkit.http._session import check_concurrency

if TYPE_CHECKING:
    import ssl

__all__ = ["HTTPTransport"]

# Seconds an idle connection is kept. The SDKs' 5 s make every burst of calls shake hands anew.
IDLE = 60.0


if TYPE_CHECKING:
    Transport = Any  # of httpx and of httpx2: their clients ask for one, and neither is loaded here
else:
    Transport = object


class HTTPTransport(Transport):  # type: ignore[misc]
    """Carry the calls of an `httpx.Client`, or an httpx2 one, from many greenlets.

    To one host it keeps and opens at most `concurrency` connections; further calls wait in order, as long as
    the request's pool time-out. Errors are httpx's own. Safe from several native threads and after `fork`. A
    call that is killed gives back what it had; an answer that is dropped half-read, too.

    Args:
        concurrency: Calls at once to one host, at least 1.
        verify: True, False, the path of a CA bundle, or an `ssl.SSLContext`. True takes `SSL_CERT_FILE`,
            `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE` when set, in this order.
        cert: The client's certificate: a path, or paths of certificate and key.
        keep_idle: Seconds an idle connection is kept.

    Example:
        client = httpx.Client(transport=HTTPTransport(200))
        azure = openai.AzureOpenAI(http_client=httpx2.Client(transport=HTTPTransport(200)), max_retries=0)
    """

    def __init__(
        self,
        concurrency: int,
        *,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, str] | None = None,
        keep_idle: float = IDLE,
    ) -> None:
        check_concurrency(concurrency)
        # Late: it loads ssl, which may not be loaded before the patch.
        from greenkit.http._exchange import Exchanges

        trust = Trust.of(verify, cert) if isinstance(verify, bool | str) else verify
        self._size = concurrency
        self._exchanges = Exchanges(concurrency, trust, keep_idle)

    def __repr__(self) -> str:
        """Show the size, and the hosts there are connections to."""
        hosts = repr(self._exchanges)
        return f"<HTTPTransport of {self._size}{', to ' + hosts if hosts else ''}>"

    def __enter__(self) -> HTTPTransport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handle_request(self, request: Any) -> Any:
        """Send a request of httpx, and return the answer once its headers are there.

        Raises:
            httpx.TransportError: What went wrong, as httpx's own transport says it.

        Switches: may.
        """
        return self._exchanges.handle_request(request)

    def close(self) -> None:
        """Close what is idle.

        Switches: never.
        """
        self._exchanges.close()
