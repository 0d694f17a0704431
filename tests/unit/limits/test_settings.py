"""What a limiter can be told: priorities, adaptive concurrency, other limits while it runs, shadow."""

from __future__ import annotations

import gevent
import pytest

from greenkit.errors import CostTooHighError, LimitTimeout
from greenkit.limits import Limiter
from greenkit.testing import FakeClock
from tests.unit.limits.simulate import sleeping_moves_the_clock


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    sleeping_moves_the_clock(monkeypatch, clock)
    return clock


class StatusError(Exception):
    def __init__(self, status, code=None):
        super().__init__(status)
        self.status_code, self.code, self.headers = status, code, {}


def test_priorities_change_the_order_and_nothing_else(clock):
    """Retry, then normal, then batch; all pass, at the rate."""
    limiter = Limiter("a", requests="10/s burst 1", clock=clock)
    assert limiter.try_permit()
    start, passed = clock.now(), []

    def one(priority):
        with limiter.permit(priority=priority):
            passed.append(priority)

    jobs = [gevent.spawn(one, name) for name in ("batch", "normal", "retry", "normal")]
    gevent.joinall(jobs, raise_error=True)
    assert passed == ["retry", "normal", "normal", "batch"]
    assert clock.now() - start == pytest.approx(0.4)


def test_an_attempt_after_a_failure_goes_first(clock):
    """It has waited once already."""
    limiter = Limiter("a", requests="1/s burst 1", clock=clock)
    order = []

    def tried():
        for attempt in limiter.attempts(deadline=100.0):
            with attempt:
                order.append(("tried", attempt.number))
                if attempt.number == 1:
                    raise ConnectionResetError

    def plain(number):
        with limiter.permit():
            order.append(number)

    jobs = [gevent.spawn(tried), *[gevent.spawn(plain, number) for number in range(20)]]
    gevent.joinall(jobs, raise_error=True)
    # Its backoff is at most half a second of the twenty the others take.
    assert order.index(("tried", 2)) <= 3, order


def test_a_deadline_in_line_needs_no_timer_of_its_own(clock):
    """One alarm serves the head's instant and every time-out; the late one is told."""
    limiter = Limiter("a", concurrency=1, clock=clock)
    outcome = []

    def one(timeout):
        try:
            with limiter.permit(timeout=timeout):
                outcome.append("passed")
        except LimitTimeout as error:
            why = "no slot" if "no slot" in str(error) else str(error)
            outcome.append(f"{why} for {timeout} after {clock.now() - 1000:.1f}")

    with limiter.permit():
        jobs = [gevent.spawn(one, timeout) for timeout in (5.0, 2.0, None)]
        gevent.joinall(jobs[:2])
    jobs[2].get(timeout=5)
    assert outcome == ["no slot for 2.0 after 2.0", "no slot for 5.0 after 5.0", "passed"]
    assert limiter.statistics().timed_out == 2


def test_other_limits_apply_at_once_to_those_in_line(clock):
    """The head is timed anew; what is out stays out; what was not named stays."""
    limiter = Limiter("a", requests="1/day burst 1", tokens="10/s burst 10", clock=clock)
    assert limiter.try_permit(tokens=5)
    start = clock.now()

    def one():
        with limiter.permit():
            pass

    waiter = gevent.spawn(one)
    gevent.sleep(0)
    assert limiter.statistics().waiting == 1
    limiter.configure(requests="10/s burst 1")
    waiter.get(timeout=5)
    assert clock.now() - start == pytest.approx(0.1)
    assert limiter.statistics().available["tokens"] == pytest.approx(6)


def test_a_cost_that_can_never_pass_any_more_is_told(clock):
    """A smaller burst is an error for those in line who ask for more than it."""
    limiter = Limiter("a", tokens="1/s burst 100", clock=clock)
    assert limiter.try_permit(tokens=100)

    def one():
        with limiter.permit(tokens=80):
            pass

    waiter = gevent.spawn(one)
    gevent.sleep(0)
    limiter.configure(tokens="1/s burst 50")
    with pytest.raises(CostTooHighError, match="tokens=80"):
        waiter.get(timeout=5)
    assert limiter.statistics().waiting == 0


def test_concurrency_can_be_changed_where_it_was_counted(clock):
    """More slots let those in line through; a limiter without any cannot get some later."""
    limiter = Limiter("a", concurrency=1, clock=clock)
    passed = []

    def one():
        with limiter.permit():
            passed.append(1)

    with limiter.permit():
        waiter = gevent.spawn(one)
        gevent.sleep(0)
        assert not passed
        limiter.configure(concurrency=2)
        waiter.get(timeout=5)
    with pytest.raises(TypeError, match="concurrency"):
        Limiter("b", requests="1/s", clock=clock).configure(concurrency=2)
    with pytest.raises(TypeError, match="does not limit tokens"):
        limiter.configure(tokens="1/s")


def test_a_pause_can_be_ended(clock):
    """resume() lets the head through at once."""
    limiter = Limiter("a", requests="10/s burst 5", clock=clock)
    limiter.pause(60)
    start = clock.now()

    def one():
        with limiter.permit():
            pass

    waiter = gevent.spawn(one)
    gevent.sleep(0)
    assert limiter.statistics().waiting == 1
    limiter.resume()
    waiter.get(timeout=5)
    assert clock.now() == start


def test_a_429_slows_down_for_a_while(clock):
    """The pace is cut, recovers, and ends at what was configured; an exhausted quota cuts nothing."""
    limiter = Limiter("a", requests="10/s burst 1", clock=clock)
    with pytest.raises(StatusError), limiter.permit():
        raise StatusError(429, code="insufficient_quota")
    assert (limiter.statistics().pace, limiter.statistics().paused_for) == (1.0, 0.0)
    clock.advance(1)
    with pytest.raises(StatusError), limiter.permit():
        raise StatusError(429)
    assert limiter.statistics().pace == pytest.approx(0.8)
    clock.advance(1.5)
    assert limiter.try_permit()
    assert limiter.try_permit().retry_after == pytest.approx(0.1 / 0.815, rel=0.01)
    clock.advance(100)
    assert limiter.try_permit()
    assert limiter.statistics().pace == 1.0
    assert limiter.try_permit().retry_after == pytest.approx(0.1)


def test_adaptive_concurrency_follows_the_server(clock):
    """It grows while calls go well and the slots are all in use, and shrinks when one is too much."""
    limiter = Limiter("a", concurrency=(2, 8), clock=clock)

    def fill():
        permits = []
        while permit := limiter.try_permit():
            permits.append(permit.__enter__())
        for permit in permits:
            permit.__exit__(None, None, None)
        return len(permits)

    assert [fill() for _ in range(3)] == [2, 3, 4]
    assert limiter.statistics().concurrency == 5
    with pytest.raises(StatusError), limiter.permit():
        raise StatusError(503)
    assert limiter.statistics().concurrency == 4
    with pytest.raises(ValueError, match="least"):
        Limiter("b", concurrency=(5, 2))


def test_a_shadow_counts_and_never_waits(clock):
    """Over the limit, over the burst, paused or full: all go through, and the excess is counted."""
    limiter = Limiter(
        "a", requests="10/s burst 2", tokens="10/s burst 5", concurrency=1, shadow=True, clock=clock
    )
    with limiter.permit(), limiter.permit() as second:
        assert limiter.statistics().shadowed == 1
        second.settle(tokens=5)
    with pytest.raises(StatusError), limiter.permit(tokens=50):
        raise StatusError(429)
    seen = limiter.statistics()
    assert (seen.rejected, seen.paused_for, seen.pace, seen.in_use) == (1, 0.0, 1.0, 0)
    assert limiter.try_permit()
    assert limiter.call(str.upper, "x", max_wait=0.0) == "X"
    assert limiter.statistics().available["tokens"] == pytest.approx(5), "what was let through owes nothing"
    assert clock.now() == 1000


def test_retries_have_a_budget_of_their_own(clock):
    """Beyond its share a failure is raised at once; a 429 is not counted."""
    limiter = Limiter("a", requests="1000/s", retry_share=0.1, clock=clock)
    made = []

    def call(status):
        for attempt in limiter.attempts(deadline=1000.0):
            with attempt:
                made.append(status)
                if attempt.number < 3:
                    raise StatusError(status)

    for _ in range(30):
        call(429)
    assert len(made) == 90
    made.clear()
    failed = 0
    for _ in range(100):
        try:
            call(503)
        except StatusError:
            failed += 1
    # Ten in hand, three from the thirty before, and ten of a hundred.
    assert len(made) - 100 == pytest.approx(23, abs=1)
    assert failed > 80
    with pytest.raises(ValueError, match="retry_share"):
        Limiter("b", requests="1/s", retry_share=2)
