"""Prepare plain calls of a `requests.Session` in a tenth of the time; all others are requests' own matter.

`Session.prepare_request()` takes 142 of the 400 microseconds of Python that requests spends on a call: it
parses the address four times, asks every value whether it is a Mapping, and looks for a netrc file. Here the
common call (an address, headers, JSON or bytes) is prepared by hand, to the same `PreparedRequest`; a test
holds the two together. Sending remains requests' and urllib3's, so whatever is patched there (by
OpenTelemetry, Sentry, VCR, responses) goes on seeing it. Written against requests 2.32 to 2.34.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from requests.cookies import RequestsCookieJar
from requests.models import PreparedRequest
from requests.structures import CaseInsensitiveDict
from requests.utils import NETRC_FILES, check_header_validity, get_netrc_auth

from greenkit._clock import MONOTONIC

if TYPE_CHECKING:
    from requests import Request

__all__ = ["prepared", "prepared_of"]

# Their stubs have no types.
_cookies: Any = requests.cookies
_auth: Any = requests.auth
_models: Any = requests.models
_utils: Any = requests.utils
_THEIRS = requests.Session.prepare_request
# Seconds for which there is taken to be no netrc file after a look for one.
_NETRC_SEEN = 1.0
_not_before: dict[str | None, float] = {}


def prepared(session: requests.Session, request: Request) -> PreparedRequest | None:
    """Return what requests would make of a plain `request`, or None when it is anything but plain.

    Switches: never.
    """
    plain = (
        requests.Session.prepare_request is _THEIRS  # else a tool wants to see what is prepared
        and not (request.files or request.params or request.cookies)
        and request.hooks == {"response": []}
    )
    if not plain:
        return None
    return prepared_of(
        session,
        request.method,
        request.url,
        data=request.data,
        json=request.json,
        headers=request.headers,
        auth=request.auth,
    )


def prepared_of(
    session: requests.Session, method: Any, url: Any, *, data: Any, json: Any, headers: Any, auth: Any
) -> PreparedRequest | None:
    """Return the prepared request of these, as `prepared()` does. Switches: never."""
    plain = (
        type(url) is str
        and type(method) is str
        and type(data) in {bytes, dict, list}
        and (type(data) is bytes or not data)
        and type(headers) in {dict, CaseInsensitiveDict}
        and type(session.headers) is CaseInsensitiveDict
        and type(session.cookies) is RequestsCookieJar
        and not (session.params or "@" in url)
        and session.hooks == {"response": []}
    )
    if not plain:
        return None
    auth = session.auth if auth is None else auth
    if auth is not None and not _is_basic(auth):
        return None
    if auth is None and session.trust_env and _netrc_has(url):
        return None
    merged = _headers(session.headers, headers)
    address = _address(url)
    if merged is None or address is None:
        return None
    call = PreparedRequest()
    call.method = method.upper()
    call.url = address
    call.headers = merged
    call.hooks = {"response": []}
    call._cookies = RequestsCookieJar()  # type: ignore[attr-defined]
    if len(session.cookies):
        _cookies.merge_cookies(call._cookies, session.cookies)  # type: ignore[attr-defined]
        call.prepare_cookies(call._cookies)  # type: ignore[attr-defined]
    if not _give_body(call, data, json):
        return None
    if auth is not None:
        call.headers["Authorization"] = _auth._basic_auth_str(*auth)
    return call


def _is_basic(auth: Any) -> bool:
    return type(auth) is tuple and len(auth) == 2 and type(auth[0]) is str and type(auth[1]) is str


def _give_body(call: PreparedRequest, data: Any, json: Any) -> bool:
    content_type, body = None, data or None
    if body is None and json is not None:
        try:
            body = _models.complexjson.dumps(json, allow_nan=False).encode()
        except (TypeError, ValueError):
            return False  # requests says what is wrong with it
        content_type = "application/json"
    call.body = body
    if body:
        call.headers["Content-Length"] = str(len(body))
    elif call.method not in {"GET", "HEAD"} and call.headers.get("Content-Length") is None:
        call.headers["Content-Length"] = "0"
    if content_type and "content-type" not in call.headers:
        call.headers["Content-Type"] = content_type
    return True


def _headers(ours: Any, given: Any) -> CaseInsensitiveDict[Any] | None:
    """Return the headers of both, or None where one is to be left out or cannot be sent."""
    merged: CaseInsensitiveDict[Any] = CaseInsensitiveDict()
    for headers in (ours, given):
        for header in headers.items():
            name, value = header
            if value is None:
                return None
            if not (_is_valid(header) if type(name) is type(value) is str else _may_be_sent(header)):
                return None
            merged[name if type(name) is str else _utils.to_native_string(name)] = value
    return merged


def _may_be_sent(header: tuple[Any, Any]) -> bool:
    try:
        check_header_validity(header)
    except requests.exceptions.InvalidHeader:
        return False
    return True


_is_valid = lru_cache(maxsize=1024)(_may_be_sent)


@lru_cache(maxsize=1024)
def _parsed(url: str) -> str:
    call = PreparedRequest()
    call.prepare_url(url, {})
    assert call.url is not None
    return call.url


def _address(url: str) -> str | None:
    try:
        return _parsed(url)
    except requests.exceptions.RequestException:
        return None  # requests raises it anew


def _netrc_has(url: str) -> bool:
    """Tell whether a netrc file may have something to say; one that comes to be is seen after a second."""
    where = os.environ.get("NETRC")
    now = MONOTONIC.now()
    if now < _not_before.get(where, 0.0):
        return False
    files = (where,) if where is not None else tuple(f"~/{name}" for name in NETRC_FILES)
    if any(_exists(file) for file in files):
        return get_netrc_auth(url) is not None
    _not_before.clear()
    _not_before[where] = now + _NETRC_SEEN
    return False


def _exists(file: str) -> bool:
    try:
        return Path(file).expanduser().exists()
    except (OSError, RuntimeError):  # there is no home
        return False
