"""How long a task stays away after "too many requests"."""

from __future__ import annotations

import pytest
import requests
from celery import Celery, Task
from celery.canvas import Signature
from celery.exceptions import Reject, Retry

from greenkit.celery._task_body import _DEFAULT_PAUSE, _LONGEST_PAUSE, _pause_of, unwrap, wrap
from greenkit.errors import RateLimited, WouldWait


def refused(retry_after: str) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code, answer.headers["Retry-After"] = 429, retry_after
    return requests.HTTPError(response=answer)


@pytest.mark.parametrize("asked", ["0", "-5", "nan", "", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_no_pause_is_no_answer(asked: str) -> None:
    """A server that asks for no pause, or for one in the past, is not asked again at once."""
    assert _pause_of(refused(asked)) == _DEFAULT_PAUSE


@pytest.mark.parametrize(
    "asked", ["inf", "1e15", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 99999999999 00:00:00 GMT"]
)
def test_a_pause_no_calendar_holds_is_no_answer(asked: str) -> None:
    """A countdown of a million years is a mistake, not something to wait for."""
    assert _pause_of(refused(asked)) == _DEFAULT_PAUSE


def test_a_long_pause_is_cut() -> None:
    """A day away would keep the message in a worker's memory for as long."""
    assert _pause_of(refused("86400")) == _LONGEST_PAUSE


@pytest.mark.parametrize(
    ("status", "asked", "pause"), [(503, "7", 7.0), (529, "7", 7.0), (503, "", None), (500, "7", None)]
)
def test_an_overload_that_says_when_is_waited_for(status: int, asked: str, pause: float | None) -> None:
    """A 503 or 529 with a Retry-After frees the slot for as long; without one it is a failure."""
    error = refused(asked)
    error.response.status_code = status
    assert _pause_of(error) == pause


def test_an_exhausted_account_is_a_failure() -> None:
    """It says 429 too, also where only the body tells, and no waiting mends it."""
    error = refused("60")
    error.response._content = b'{"error": {"code": "insufficient_quota"}}'
    assert _pause_of(error) is None


def test_what_is_asked_for_is_heeded() -> None:
    """Seconds of a header, of our own errors, and nothing for any other error."""
    assert _pause_of(refused("2.5")) == 2.5
    assert _pause_of(RateLimited("later", retry_after=3.0)) == 3.0
    assert _pause_of(RateLimited("later", retry_after=0.0)) == _DEFAULT_PAUSE
    assert _pause_of(WouldWait("later", eta=4.0)) == 4.0
    assert _pause_of(ValueError("other")) is None


def test_a_retry_that_cannot_be_sent_goes_back_to_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery drops the message; `self` in the task is the object that is wrapped, and is given back whole."""
    app = Celery(set_as_current=False, broker="memory://", backend="disabled://")

    @app.task(bind=True, name="ask")
    def again(self: Task) -> None:
        self.retry(countdown=1)

    app.finalize()
    ask = app.tasks["ask"]
    away = ConnectionError("the broker is away")

    def send(self: Signature, *args: object, **options: object) -> None:
        raise away

    monkeypatch.setattr(Signature, "apply_async", send)
    wrap([ask], edges=False, retry_limited=False)
    ask.push_request(id="1", args=(), kwargs={}, called_directly=False, retries=0, delivery_info={})
    try:
        with pytest.raises(Reject) as caught:
            ask.run()
        assert (caught.value.requeue, caught.value.reason) == (True, away)
        monkeypatch.setattr(Signature, "apply_async", lambda self: None)
        with pytest.raises(Retry):
            ask.run()
        monkeypatch.setattr(Signature, "apply_async", send)
        unwrap([ask])
        with pytest.raises(Reject) as caught:
            ask.run()
        assert not caught.value.requeue
    finally:
        ask.pop_request()
