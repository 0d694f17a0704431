"""Make the `requests.Response` of an answer that was fetched the short way, as requests would make it."""

from __future__ import annotations

import io
import zlib
from http.client import HTTPMessage
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import requests
from requests.utils import get_encoding_from_headers
from urllib3 import HTTPHeaderDict, HTTPResponse

if TYPE_CHECKING:
    from greenkit.http._fetch import Fetched

__all__ = ["response_of"]

_cookies: Any = requests.cookies  # its stub has no types


def response_of(adapter: Any, request: requests.PreparedRequest, fetched: Fetched) -> Any:
    """Return the response; what is wrong with its body is raised when that is asked for. Switches: never."""
    response: Any = requests.Response()
    merged: dict[str, tuple[str, str]] = {}
    for name, value in fetched.headers:
        lower = name.lower()
        before = merged.get(lower)
        merged[lower] = (name, value) if before is None else (before[0], f"{before[1]}, {value}")
    # A CaseInsensitiveDict keeps exactly this (requests 2.34); setting item by item takes thrice as long.
    response.headers._store.update(merged)
    response.status_code = fetched.status
    response.reason = fetched.reason
    response.encoding = get_encoding_from_headers(response.headers)
    response.url = request.url
    response.request = request
    response.connection = adapter
    coding = merged.get("content-encoding")
    content = None if fetched.error else _decoded(fetched.content, coding and coding[1])
    if content is None:
        response.raw = _raw(fetched, request.method)
    else:
        response.raw = _ReadRaw(fetched, request.method)
        response._content, response._content_consumed = content, True
    if "set-cookie" in merged:
        _cookies.extract_cookies_to_jar(response.cookies, request, response.raw)
    return response


def _decoded(content: bytes, coding: str | None) -> bytes | None:
    """Return what `content` is in plain, or None where urllib3 is to find out."""
    if not coding or not content:
        return content
    if coding.strip().lower() not in {"gzip", "x-gzip"}:
        return None
    gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = gzip.decompress(content)
    except zlib.error:
        return None
    return plain if gzip.eof and not gzip.unused_data else None


class _Body(io.BytesIO):
    """Give a body, then raise what broke it off."""

    error: Exception | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data and self.error is not None:
            raise self.error
        return data


def _raw(fetched: Fetched, method: str | None) -> HTTPResponse:
    body = _Body(fetched.content)
    body.error = fetched.error
    return HTTPResponse(body=body, **_options(fetched, method))


def _options(fetched: Fetched, method: str | None) -> dict[str, Any]:
    message = HTTPMessage()
    headers = HTTPHeaderDict()
    for name, value in fetched.headers:
        message.add_header(name, value)
        headers.add(name, value)
    return {
        "headers": headers,
        "status": fetched.status,
        "reason": fetched.reason,
        "version": fetched.version,
        "version_string": f"HTTP/{fetched.version / 10:.1f}",
        "preload_content": False,
        "decode_content": False,
        "enforce_content_length": False,  # `_fetch` has seen to it
        "original_response": SimpleNamespace(msg=message, isclosed=lambda: True, close=lambda: None),
        "request_method": method,
    }


class _ReadRaw(HTTPResponse):
    """Be the `raw` of a response that was read to its end: urllib3's, made when it is first used."""

    def __init__(self, fetched: Fetched, method: str | None) -> None:
        self._late = (fetched, method)

    def __getattr__(self, name: str) -> Any:
        late = self.__dict__.pop("_late", None)
        if late is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        fetched, method = late
        body = io.BytesIO()
        body.close()
        super().__init__(body=body, **_options(fetched, method))
        self._fp_bytes_read, self.length_remaining = len(fetched.content), 0
        return getattr(self, name)

    @property
    def closed(self) -> bool:
        # Asked whenever one goes: it would be made only to be thrown away.
        return "_late" in self.__dict__ or super().closed
