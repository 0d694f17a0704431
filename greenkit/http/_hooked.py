"""Tell whether a tool has put itself in the way of a call of requests.

Agents and test tools (OpenTelemetry, Sentry, Datadog, VCR, responses) replace methods of requests, urllib3
and http.client. The short way of a session passes those by, so it is taken only while each of them is the
one its library came with. Written against requests 2.32 to 2.34 and urllib3 2.
"""

from __future__ import annotations

import http.client
import logging
from types import FunctionType
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["also_look_at", "nobody_looks"]

# Everything a call of requests goes through, and a call the short way does not.
_PASSED_BY: tuple[tuple[type[Any], str], ...] = (
    (requests.Session, "request prepare_request send merge_environment_settings get_adapter"),
    (requests.PreparedRequest, "prepare prepare_body prepare_headers prepare_auth"),
    (HTTPAdapter, "send build_response get_connection_with_tls_context request_url add_headers"),
    (urllib3.PoolManager, "connection_from_host connection_from_context connection_from_pool_key"),
    (HTTPConnectionPool, "urlopen _make_request _get_conn _new_conn _put_conn"),
    (HTTPSConnectionPool, "urlopen _make_request _get_conn _new_conn _put_conn"),
    (HTTPConnection, "request putrequest putheader endheaders send getresponse"),
    (HTTPSConnection, "request putrequest putheader endheaders send getresponse"),
    (urllib3.HTTPResponse, "__init__ read stream"),
    (http.client.HTTPConnection, "request putrequest putheader endheaders send getresponse"),
    (http.client.HTTPResponse, "__init__ begin read"),
)  # fmt: skip
_log = logging.getLogger("urllib3.connectionpool")


class _Watch:
    """Methods as their libraries have them."""

    __slots__ = ("_foreign", "_known", "_places")

    def __init__(self, places: tuple[tuple[type[Any], str], ...]) -> None:
        self._places = places
        # (class, name, method) of each, once all were seen to be their library's own.
        self._known: tuple[tuple[type[Any], str, Any], ...] = ()
        # The first that is not, looked at before all others: agents mostly stay.
        self._foreign: tuple[type[Any], str, Any] | None = None

    def add(self, *places: tuple[type[Any], str]) -> None:
        """Look at these methods too. Switches: never."""
        self._places += places
        self._known = ()

    def unchanged(self) -> bool:
        """Tell whether all methods are their library's own. Switches: never."""
        if self._foreign is not None:
            owner, name, method = self._foreign
            if getattr(owner, name, None) is method:
                return False
            self._foreign = None
        if not self._known:
            return self._learn()
        for owner, name, method in self._known:
            if getattr(owner, name, None) is not method:
                self._known = ()
                return self._learn()
        return True

    def _learn(self) -> bool:
        found = []
        for owner, names in self._places:
            for name in names.split():
                method = getattr(owner, name, None)
                found.append((owner, name, method))
                if not _is_own(owner, name, method):
                    self._foreign = found[-1]
                    return False
        self._known = tuple(found)
        return True


def _is_own(owner: type[Any], name: str, method: object) -> bool:
    """Tell whether a method was written in the module of the class that has it."""
    home = next((kind for kind in owner.__mro__ if name in vars(kind)), None)
    # `functools.wraps` copies a module's name, but no function leaves the globals it was written in.
    return (
        home is not None
        and isinstance(method, FunctionType)
        and method.__globals__.get("__name__") == home.__module__
    )


_watch = _Watch(_PASSED_BY)
also_look_at = _watch.add


def nobody_looks() -> bool:
    """Tell whether a call may go the short way: no method is replaced, and nothing is to be logged of it.

    Switches: never.
    """
    return (
        _watch.unchanged()
        and not http.client.HTTPConnection.debuglevel
        and not _log.isEnabledFor(logging.DEBUG)
    )
