from __future__ import annotations

import socket

import gevent
import pytest

from greenkit.errors import LimitTimeout, RateLimited
from greenkit.limits._feedback import Ending, ending_of, worth_another


class Response:
    def __init__(self, status_code, headers=None):
        self.status_code, self.headers = status_code, headers or {}


class ApiError(Exception):
    def __init__(self, status=None, headers=None, code=None):
        super().__init__(status)
        self.response = Response(status, headers) if status else None
        self.code = code


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, Ending.SPENT),
        (ApiError(429), Ending.REJECTED),
        (RateLimited("no"), Ending.REJECTED),
        (ApiError(500), Ending.SPENT),
        (ConnectionResetError(), Ending.SPENT),
        (TimeoutError(), Ending.SPENT),
        (gevent.GreenletExit(), Ending.SPENT),
        (ConnectionRefusedError(), Ending.NEVER_SENT),
        (caused(ApiError(), caused(OSError(), socket.gaierror())), Ending.NEVER_SENT),
    ],
)
def test_an_error_says_what_it_cost(error, ending):
    """429 keeps the request only; what never left costs nothing; all else stands."""
    assert ending_of(error) is ending


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (ApiError(429), True),
        (ApiError(503), True),
        (ApiError(408), True),
        (ApiError(400), False),
        (ApiError(429, code="insufficient_quota"), False),
        (ApiError(500, {"x-should-retry": "false"}), False),
        (caused(ApiError(), ConnectionResetError()), True),
        (caused(ApiError(), TimeoutError()), True),
        (RateLimited("no"), True),
        (LimitTimeout("no", retry_after=1), False),
        (ValueError(), False),
        (gevent.GreenletExit(), False),
        (gevent.Timeout(1), False),
    ],
)
def test_another_attempt_is_made_for_what_may_heal(error, worth):
    """Passing troubles are tried again; an exhausted quota, a 4xx and a kill are not."""
    assert worth_another(error) is worth
