"""What the end of a call does to everybody else: refunds, pauses, further attempts."""

from __future__ import annotations

import pytest

from greenkit import Limiter, facts
from greenkit.errors import RateLimited
from greenkit.limits._permit import MOST_REJECTIONS
from greenkit.testing import FakeClock


@pytest.fixture
def clock(monkeypatch):
    """Be a clock that goes on, past every pause, where `attempts()` would sleep."""
    clock = FakeClock(1000)
    monkeypatch.setattr("greenkit.limits._permit.sleep", lambda seconds: clock.advance(seconds + 10.0))
    return clock


class StatusError(Exception):
    """Carry a status, headers and a body as an SDK's error does."""

    def __init__(self, status, headers=None, body=None):
        super().__init__(status)
        self.status_code, self.headers, self.body = status, headers or {}, body


TOO_LARGE = {"message": "Request too large: Limit 30000, Requested 43010", "code": "rate_limit_exceeded"}


@pytest.mark.parametrize(("status", "pause"), [(429, 7.0), (503, 7.0), (529, 7.0), (500, 0.0)])
def test_a_server_that_says_when_is_waited_for_by_all(status, pause):
    """Whether it leaves a block or is observed: 429, and an overload with a time."""
    for leaves in (True, False):
        limiter = Limiter("a", requests="10/s", clock=FakeClock(1000))
        if leaves:
            with pytest.raises(StatusError), limiter.permit():
                raise StatusError(status, {"Retry-After": "7"})
        else:
            limiter.observe(status, {"Retry-After": "7"})
        assert limiter.statistics().paused_for == pytest.approx(pause)


@pytest.mark.parametrize("body", [{"code": "insufficient_quota"}, TOO_LARGE])
def test_what_waiting_does_not_heal_pauses_nobody(body):
    """Not as an error, not when observed with its body, and it is not tried again."""
    limiter = Limiter("a", requests="10/s", tokens="100/s burst 100", clock=FakeClock(1000))
    tries = 0
    with pytest.raises(StatusError):  # noqa: PT012 - the loop is what raises
        for attempt in limiter.attempts(tokens=50, deadline=100.0):
            with attempt:
                tries += 1
                raise StatusError(429, {"Retry-After": "60"}, body)
    limiter.observe(429, {"Retry-After": "60"}, body={"error": body})
    seen = limiter.statistics()
    assert (tries, seen.paused_for, seen.pace, seen.rejected) == (1, 0.0, 1.0, 0)
    assert seen.available["tokens"] == 100, "what was refused is refunded"


def test_attempts_that_end_with_429_are_bounded(clock):
    """A deadline alone would let one call ask for hours."""
    limiter = Limiter("a", requests="100/s", clock=clock)
    tries = 0
    with pytest.raises(StatusError):  # noqa: PT012 - the loop is what raises
        for attempt in limiter.attempts(deadline=1e6):
            with attempt:
                tries += 1
                raise StatusError(429, {"retry-after": "0.01"})
    assert tries == MOST_REJECTIONS


def test_one_calls_own_repeats_pause_nobody_else(clock):
    """Others went since its last 429 and none was refused: only this call is, and only it waits."""
    limiter = Limiter("a", requests="100/s", clock=clock)
    pauses = []
    with pytest.raises(StatusError):  # noqa: PT012 - the loop is what raises
        for attempt in limiter.attempts(deadline=1e6):
            for _ in range(3):
                with limiter.permit():
                    pass
            with attempt:
                raise StatusError(429, {"retry-after": "5"})
            pauses.append(limiter.statistics().paused_for)
    assert pauses == [5.0] + [0.0] * (MOST_REJECTIONS - 2)
    assert limiter.statistics().rejected == MOST_REJECTIONS


def test_an_error_handled_before_the_call_refunds_nothing():
    """Nor is it a reason to try again."""
    limiter = Limiter("a", requests="10/s", tokens="100/s burst 100", clock=FakeClock(1000))

    class OurError(Exception): ...

    tries = 0
    try:
        raise ConnectionRefusedError("a cache is down")
    except ConnectionRefusedError:
        with pytest.raises(OurError):  # noqa: PT012 - the loop is what raises
            for attempt in limiter.attempts(tokens=90, deadline=10.0):
                with attempt:
                    tries += 1
                    raise OurError  # noqa: B904 - the context is what is tested
    assert (tries, limiter.statistics().available["tokens"]) == (1, pytest.approx(10))


@pytest.mark.parametrize("take", [Limiter.permit, Limiter.try_permit])
def test_a_held_permit_is_not_entered_again(take):
    """A second call under it would go out unpaid; the slot comes back once."""
    limiter = Limiter("a", concurrency=2)
    permit = take(limiter)
    with permit:
        with pytest.raises(RuntimeError, match="held already"):
            permit.__enter__()
        assert limiter.statistics().in_use == 1
    with pytest.raises(RuntimeError, match="used before"):
        permit.__enter__()
    permit.__exit__(None, None, None)
    limiter.permit().__exit__(None, None, None)
    assert limiter.statistics().in_use == 0


def test_what_cannot_be_limited_is_refused():
    """Code that runs after the call, attempts nobody entered, and times that are none."""
    limiter = Limiter("a", requests="10/s")

    def generator():
        yield

    async def coroutine(): ...

    for deferred in (generator, coroutine):
        with pytest.raises(TypeError, match="function"):
            limiter.limited()(deferred)
    with pytest.raises(RuntimeError, match="not entered"):
        for _ in limiter.attempts(deadline=1.0):
            pass
    for wrong, error in ((float("nan"), ValueError), ("5", TypeError)):
        with pytest.raises(error, match="timeout"):
            limiter.permit(timeout=wrong)
        with pytest.raises(error, match="deadline"):
            limiter.attempts(deadline=wrong)


def test_listeners_hear_of_permits_that_did_not_wait():
    """try_permit() grants as permit() does."""
    heard = []
    unsubscribe = facts.subscribe(heard.append)
    try:
        Limiter("a", requests="10/s").try_permit()
    finally:
        unsubscribe()
    assert heard == [facts.PermitGranted("a", 0.0)]


def test_our_own_error_says_when():
    """RateLimited pauses for its `retry_after`, a second when it names none worth the name."""
    for said, pause in ((30.0, 30.0), (0.0, 1.0), (float("nan"), 1.0), (None, 1.0)):
        limiter = Limiter("a", requests="10/s", clock=FakeClock(1000))
        with pytest.raises(RateLimited), limiter.permit():
            raise RateLimited("no", retry_after=said)
        assert limiter.statistics().paused_for == pytest.approx(pause)
