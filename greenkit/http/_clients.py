"""Open the OpenAI and Anthropic clients so that they fit a process of many greenlets.

This file checks what the caller wants and makes the SDK's client; `_transport` adapts the httpx it
stands on. Neither SDK is a dependency: each is imported when its client is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from greenkit.http._contexts import Trust
from greenkit.http._dns import coalesce_lookups
from greenkit.http._httpx import tune_httpx
from greenkit.http._observer import check_observer
from greenkit.http._retry_after import ASKED, check_max_wait, limited
from greenkit.http._session import check_concurrency, check_timeout
from greenkit.http._warmup import import_sdk, warm

if TYPE_CHECKING:
    import anthropic
    import openai

    from greenkit.http._observer import Observers

__all__ = ["anthropic_client", "openai_client"]


def openai_client(
    concurrency: int,
    *,
    limiter: Observers | None = None,
    timeout: float | tuple[float, float] = (5.0, 120.0),
    verify: bool | str = True,
    cert: str | tuple[str, str] | None = None,
    max_wait: float | None = None,
    **options: Any,
) -> openai.OpenAI:
    """Open an `openai.OpenAI` for `concurrency` greenlets; share it between all of them.

    Its pool has that size, its TLS context is shared, the poll of idle connections is tuned (see
    `tune_httpx()`), what it would work out in the first call is worked out here, and it never
    retries by itself: a limiter's `attempts()` or Celery does, which know of all other calls.

    Args:
        concurrency: Calls at once, at least 1.
        limiter: Told status and headers of every answer, or a function of the address; see `session()`.
        timeout: Seconds to connect, and seconds between two pieces of an answer. One number is both.
        verify: True, False or the path of a CA bundle. True takes `SSL_CERT_FILE`, `SSL_CERT_DIR`,
            `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE` when set, in this order.
        cert: The client's certificate: a path, or paths of certificate and key.
        max_wait: As in `session()`. What would last longer is raised as `RateLimited`, which is the
            SDK's own error (such as `openai.RateLimitError`) too.
        options: Passed on to the SDK, such as `api_key`, `base_url` or `max_retries` (here 0).

    Raises:
        ImportError: The SDK is not installed.

    Switches: may, once per process: the SDK asks what platform it runs on.
    """
    given = (limiter, timeout, Trust.of(verify, cert), max_wait)
    return cast("openai.OpenAI", _client("openai", "OpenAI", concurrency, given, options))


def anthropic_client(
    concurrency: int,
    *,
    limiter: Observers | None = None,
    timeout: float | tuple[float, float] = (5.0, 120.0),
    verify: bool | str = True,
    cert: str | tuple[str, str] | None = None,
    max_wait: float | None = None,
    **options: Any,
) -> anthropic.Anthropic:
    """Open an `anthropic.Anthropic` for `concurrency` greenlets; otherwise as `openai_client()`.

    Raises:
        ImportError: The SDK is not installed.

    Switches: may, once per process.
    """
    given = (limiter, timeout, Trust.of(verify, cert), max_wait)
    return cast("anthropic.Anthropic", _client("anthropic", "Anthropic", concurrency, given, options))


def _client(package: str, name: str, concurrency: int, given: Any, options: dict[str, Any]) -> Any:
    limiter, timeout, trust, max_wait = given
    check_concurrency(concurrency)
    seconds = check_timeout(timeout)
    check_max_wait(max_wait)
    check_observer(limiter)
    if "http_client" in options:
        raise TypeError(f"{package}_client() makes the http_client: that is what it is for; leave it out")
    sdk = import_sdk(package)
    # Late: it loads ssl, which may not be loaded before the patch.
    from greenkit.http._transport import fitting_client

    tune_httpx()
    coalesce_lookups()
    http_client, timeouts = fitting_client(
        sdk, concurrency, observer=limiter, timeout=seconds, trust=trust, max_wait=max_wait
    )
    options = {"max_retries": 0, "timeout": timeouts, "http_client": http_client} | options
    client = _subclass(getattr(sdk, name))(**options)
    warm(client, package)
    return client


def _subclass(base: type[Any]) -> type[Any]:
    class Client(base):  # type: ignore[misc]  # a class known at run time only
        """Be the SDK's client; its error for a wait that is too long is a `RateLimited` too."""

        def _make_status_error(self, err_msg: str, *, body: object, response: Any) -> Exception:
            error: Exception = super()._make_status_error(err_msg, body=body, response=response)
            if ASKED not in response.extensions:
                return error
            asked, max_wait = response.extensions[ASKED]
            host = response.request.url.host
            return limited(error, host=host, status=response.status_code, asked=asked, max_wait=max_wait)

    Client.__name__ = Client.__qualname__ = base.__name__
    return Client
