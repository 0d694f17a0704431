"""What answers mean "later", and how long a call stays for them."""

from __future__ import annotations

import pickle

import pytest

from greenkit.errors import RateLimited
from greenkit.http._retry_after import WaitBudget, limited


def test_waits_add_up():
    """No single wait nor their sum exceeds what the caller allowed, but for the jitter of the last."""
    budget = WaitBudget(1.0)
    waits = []
    while (seconds := budget.wait_for(0.3)) is not None:
        waits.append(seconds)
    assert len(waits) == 3 or (len(waits) == 2 and sum(waits) > 0.6)
    assert all(0.3 <= seconds <= 0.33 for seconds in waits), "never earlier than asked"
    assert WaitBudget(1.0).wait_for(1.0) is not None
    assert WaitBudget(1.0).wait_for(1.001) is None
    assert WaitBudget(0.0).wait_for(None) is None


def test_a_guess_doubles():
    """A server that does not say is asked after 0.5 to 1 s, then 1 to 2 s, and so on."""
    budget = WaitBudget(1000.0)
    waits = [budget.wait_for(None) for _ in range(5)]
    assert all(2**n / 2 <= seconds <= 2**n for n, seconds in enumerate(waits))


@pytest.mark.parametrize("asked", [None, 0.0, -1.0, 1e-9, 0.001, 0.05])
def test_no_server_is_asked_for_ever(asked):
    """Whatever it asks for, the waits grow, so that a time to wait ends after few of them."""
    budget = WaitBudget(10.0)
    waits = []
    while (seconds := budget.wait_for(asked)) is not None:
        waits.append(seconds)
        assert len(waits) < 12
    assert min(waits) >= 0.05
    assert sum(waits) <= 11.0


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
