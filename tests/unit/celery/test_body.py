"""How long a task stays away after "too many requests"."""

from __future__ import annotations

import pytest
import requests

from greenkit.celery._body import _DEFAULT_PAUSE, _LONGEST_PAUSE, _pause_of
from greenkit.errors import RateLimited, WouldWait


def refused(retry_after: str) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code, answer.headers["Retry-After"] = 429, retry_after
    return requests.HTTPError(response=answer)


@pytest.mark.parametrize("asked", ["0", "-5", "nan", "", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_no_pause_is_no_answer(asked: str) -> None:
    """A server that asks for no pause, or for one in the past, is not asked again at once."""
    assert _pause_of(refused(asked)) == _DEFAULT_PAUSE


@pytest.mark.parametrize("asked", ["inf", "1e15", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_pause_beyond_the_calendar_is_cut(asked: str) -> None:
    """A countdown of a million years cannot be sent; the message would come back at once instead."""
    assert _pause_of(refused(asked)) == _LONGEST_PAUSE


def test_what_is_asked_for_is_heeded() -> None:
    """Seconds of a header, of our own errors, and nothing for any other error."""
    assert _pause_of(refused("2.5")) == 2.5
    assert _pause_of(RateLimited("later", retry_after=3.0)) == 3.0
    assert _pause_of(RateLimited("later", retry_after=0.0)) == _DEFAULT_PAUSE
    assert _pause_of(WouldWait("later", eta=4.0)) == 4.0
    assert _pause_of(ValueError("other")) is None
