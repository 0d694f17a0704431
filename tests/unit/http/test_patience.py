"""What answers mean "later", and how long a call stays for them."""

from __future__ import annotations

import pickle
from datetime import datetime, timezone

import pytest

from greenkit.errors import RateLimited
from greenkit.http._patience import Patience, asked_to_wait, limited


@pytest.mark.parametrize(
    ("status", "headers", "means"),
    [
        (200, {"retry-after": "5"}, (False, None)),
        (404, {"retry-after": "5"}, (False, None)),
        (429, {}, (True, None)),
        (429, {"retry-after": "5"}, (True, 5.0)),
        (429, {"retry-after": "1.5"}, (True, 1.5)),
        (429, {"retry-after": "-3"}, (True, 0.0)),
        (429, {"retry-after": "soon"}, (True, None)),
        (429, {"retry-after": "nan"}, (True, None)),
        (429, {"retry-after-ms": "250", "retry-after": "5"}, (True, 0.25)),
        (429, {"retry-after-ms": "x", "retry-after": "5"}, (True, 5.0)),
        (503, {}, (False, None)),
        (503, {"retry-after": "5"}, (True, 5.0)),
        (529, {"retry-after": "5"}, (True, 5.0)),
        (500, {"retry-after": "5"}, (False, None)),
    ],
)
def test_what_an_answer_means(status, headers, means):
    """A 429 always says later, 503 and 529 when they say when; milliseconds go first."""
    assert asked_to_wait(status, headers) == means


def test_a_date_is_measured_by_the_servers_clock():
    """With its own Date the server's clock may be wrong by any amount; without it ours is taken."""
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert asked_to_wait(429, headers) == (True, 30.0)
    del headers["date"]
    assert asked_to_wait(429, headers) == (True, 0.0)
    year = datetime.now(timezone.utc).year + 2
    later, seconds = asked_to_wait(429, {"retry-after": f"21 Oct {year} 07:28:00 GMT"})
    assert later
    assert seconds > 86_400


def test_waits_add_up():
    """No single wait nor their sum exceeds what the caller allowed, but for the jitter of the last."""
    patience = Patience(1.0)
    waits = []
    while (seconds := patience.wait_for(0.3)) is not None:
        waits.append(seconds)
    assert len(waits) == 3 or (len(waits) == 2 and sum(waits) > 0.6)
    assert all(0.3 <= seconds <= 0.33 for seconds in waits), "never earlier than asked"
    assert Patience(1.0).wait_for(1.0) is not None
    assert Patience(1.0).wait_for(1.001) is None
    assert Patience(0.0).wait_for(None) is None


def test_a_guess_doubles():
    """A server that does not say is asked after 0.5 to 1 s, then 1 to 2 s, and so on."""
    patience = Patience(1000.0)
    waits = [patience.wait_for(None) for _ in range(5)]
    assert all(2**n / 2 <= seconds <= 2**n for n, seconds in enumerate(waits))


class LibraryError(Exception):
    """Stand for an SDK's error: it takes what only it knows."""

    def __init__(self, *, response):
        super().__init__("refused")
        self.response = response


def test_an_error_is_both_kinds():
    """Whoever catches the library's error or ours gets it, with the facts of both."""
    response = object()
    error = limited(LibraryError(response=response), host="a.example", status=429, asked=7.0, max_wait=1.0)
    assert isinstance(error, LibraryError)
    assert isinstance(error, RateLimited)
    assert (error.response, error.retry_after) == (response, 7.0)
    assert "a.example answered 429 and asks to wait 7 s; max_wait=1 s" in str(error)
    again = limited(LibraryError(response=1), host="a", status=429, asked=None, max_wait=0)
    assert type(again) is type(error)
    assert "does not say for how long" in str(again)


def test_an_error_travels_between_processes_as_ours():
    """Pickled it leaves the library's part, which holds a connection, behind."""
    error = limited(LibraryError(response=lambda: 0), host="a", status=429, asked=7.0, max_wait=1.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.retry_after) == (RateLimited, str(error), 7.0)
