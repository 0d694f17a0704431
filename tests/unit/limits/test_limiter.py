from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from greenkit import facts
from greenkit.errors import CostTooHighError, LimitTimeout, RateLimited, WouldWait
from greenkit.limits import Limiter, Refusal
from greenkit.testing import FakeClock, assert_no_switch
from tests.unit.limits.simulate import drain, sleeping_moves_the_clock


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    sleeping_moves_the_clock(monkeypatch, clock)
    return clock


def pass_once(limiter, **costs):
    with limiter.permit(**costs):
        pass


class TooManyError(Exception):
    status_code = 429

    def __init__(self, headers=None):
        super().__init__("429")
        self.headers = headers or {}


def test_an_open_limit_is_taken_without_a_switch():
    """LocalBudget there, nobody waiting: neither permit, settle nor try_permit meets the hub."""
    limiter = Limiter("a", requests="10/s burst 5", tokens="1000/s burst 500", concurrency=3)
    with assert_no_switch():
        with limiter.permit(tokens=100) as permit:
            permit.settle(tokens=50)
        with limiter.try_permit(tokens=100):
            pass
    assert permit.waited == 0.0


def test_waiters_pass_in_order_at_the_rate(clock):
    """1000 waiters at 200/s and burst 1 take 999 intervals, in the order they came."""
    limiter = Limiter("a", requests="200/s burst 1", clock=clock)
    start = clock.now()
    passed = drain(limiter, 1000)
    assert [number for _, number in passed] == list(range(1000))
    assert clock.now() - start == pytest.approx(999 / 200)
    seen = limiter.statistics()
    assert (seen.granted, seen.waiting) == (1000, 0)
    assert seen.wait_p50 == pytest.approx(2.5, rel=0.1)
    assert seen.wait_p95 == pytest.approx(4.75, rel=0.1)


def test_a_refusal_is_falsy_and_says_when(clock):
    """try_permit answers with the shortest wait after which the same cost passes."""
    limiter = Limiter("a", requests="10/s burst 1", clock=clock)
    assert limiter.try_permit()
    refusal = limiter.try_permit()
    assert not refusal
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == pytest.approx(0.1)
    clock.advance(refusal.retry_after)
    assert limiter.try_permit()
    assert limiter.statistics().refused == 1


def test_a_refusal_by_one_dimension_takes_nothing_of_the_others(clock):
    """Several dimensions are taken together or not at all."""
    limiter = Limiter("a", requests="10/s burst 10", tokens="10/s burst 10", clock=clock)
    assert limiter.try_permit(tokens=8)
    before = limiter.statistics().available
    assert not limiter.try_permit(tokens=8)
    assert limiter.statistics().available == before
    assert before == {"requests": pytest.approx(9), "tokens": pytest.approx(2)}


def test_nobody_overtakes_those_who_wait(clock):
    """try_permit says no while somebody waits, even at a cost that would pass."""
    limiter = Limiter("a", tokens="10/s burst 10", clock=clock)
    assert limiter.try_permit(tokens=5)
    seen = []

    def look():
        seen.append((limiter.statistics().waiting, limiter.try_permit(tokens=1)))

    waiter = gevent.spawn(pass_once, limiter, tokens=10)
    gevent.sleep(0)
    look()
    waiter.get(timeout=5)
    [(waiting, answer)] = seen
    assert waiting == 1
    assert not answer


def test_settle_refunds_the_rest_or_charges_the_debt(clock):
    """After settle the budget is what the real cost left of it."""
    limiter = Limiter("a", tokens="10/s burst 100", clock=clock)
    with limiter.permit(tokens=80) as permit:
        permit.settle(tokens=30)
    assert limiter.statistics().available["tokens"] == pytest.approx(70)
    with limiter.permit(tokens=70) as permit:
        permit.settle(tokens=100)
        assert permit.costs == {"tokens": 100}
    assert limiter.statistics().available["tokens"] == pytest.approx(-30)
    assert limiter.try_permit(tokens=1).retry_after == pytest.approx(3.1)
    assert limiter.try_permit(tokens=0), "what costs nothing is not held up by a debt"


def test_a_refund_brings_the_head_forward(clock):
    """Whoever sleeps for its instant is re-timed when budget comes back."""
    limiter = Limiter("a", tokens="1/s burst 100", clock=clock)
    first = limiter.try_permit(tokens=100)
    start = clock.now()
    waiter = gevent.spawn(pass_once, limiter, tokens=50)
    gevent.sleep(0)
    first.settle(tokens=40)
    waiter.get(timeout=5)
    assert clock.now() == start


def test_a_wait_that_is_hopeless_fails_at_once(clock):
    """LimitTimeout comes without a switch, names the wait, and takes nothing."""
    limiter = Limiter("a", requests="1/s burst 1", clock=clock)
    assert limiter.try_permit()
    with (
        assert_no_switch(),
        pytest.raises(LimitTimeout, match="in 1 s") as caught,
        limiter.permit(timeout=0.5),
    ):
        pass
    assert caught.value.retry_after == pytest.approx(1.0)
    assert limiter.statistics().timed_out == 1
    clock.advance(1.0)
    assert limiter.try_permit()


def test_a_wait_behind_others_counts_their_costs(clock):
    """The n-th waiter's instant is known from the costs queued before it."""
    limiter = Limiter("a", requests="1/s burst 1", clock=clock)
    assert limiter.try_permit()
    for _ in range(3):
        gevent.spawn(pass_once, limiter)
    gevent.sleep(0)
    assert limiter.eta() == pytest.approx(4.0)
    with pytest.raises(LimitTimeout), limiter.permit(timeout=3.9):
        pass
    with limiter.permit(timeout=4.1) as permit:
        assert permit.waited == pytest.approx(4.0)


def test_a_cost_above_the_burst_is_refused_at_once():
    """CostTooHighError names cost, burst and what to write; no permit is made."""
    limiter = Limiter("a", tokens="1000/min burst 100")
    with pytest.raises(CostTooHighError, match=r"tokens=101 .*burst of 100.*burst 101"):
        limiter.permit(tokens=101)
    with pytest.raises(ValueError, match="0 or more"):
        limiter.permit(tokens=-1)
    with pytest.raises(ValueError, match="0 or more"):
        limiter.permit(tokens=float("nan"))
    with pytest.raises(TypeError, match="no dimension named 'tokns'; this limiter has tokens"):
        limiter.permit(tokns=1)


@pytest.mark.parametrize("error", [TooManyError({"Retry-After": "7"}), RateLimited("no", retry_after=7)])
def test_a_429_pauses_everybody_and_refunds_all_but_the_request(clock, error):
    """The server counted the request and nothing else; nobody passes for as long as it said."""
    limiter = Limiter("a", requests="100/s burst 10", tokens="1/s burst 100", clock=clock)
    with pytest.raises(type(error)), limiter.permit(tokens=60):
        raise error
    seen = limiter.statistics()
    assert seen.available == {"requests": pytest.approx(9), "tokens": pytest.approx(100)}
    assert (seen.rejected, seen.paused_for) == (1, pytest.approx(7))
    assert limiter.try_permit().retry_after == pytest.approx(7)
    start = clock.now()
    drain(limiter, 3)
    assert clock.now() == pytest.approx(start + 7)


def test_what_was_never_sent_costs_nothing(clock):
    """A refused connection gives everything back; another error keeps the cost."""
    limiter = Limiter("a", requests="1/s burst 10", tokens="1/s burst 100", clock=clock)
    with pytest.raises(ConnectionRefusedError), limiter.permit(tokens=60):
        raise ConnectionRefusedError
    assert limiter.statistics().available == {"requests": pytest.approx(10), "tokens": pytest.approx(100)}
    with pytest.raises(KeyError), limiter.permit(tokens=60):
        raise KeyError
    assert limiter.statistics().available == {"requests": pytest.approx(9), "tokens": pytest.approx(40)}


def test_what_settle_said_stands_when_the_block_fails(clock):
    """A 429 after settle() refunds nothing more."""
    limiter = Limiter("a", tokens="1/s burst 100", clock=clock)
    with pytest.raises(TooManyError), limiter.permit(tokens=60) as permit:  # noqa: PT012
        permit.settle(tokens=50)
        raise TooManyError
    assert limiter.statistics().available["tokens"] == pytest.approx(50)


def test_observe_learns_from_an_answer(clock):
    """429 pauses with or without a header, 503 only with one, 200 never."""
    limiter = Limiter("a", requests="100/s", clock=clock)
    limiter.observe(200, {"Retry-After": "9"})
    limiter.observe(503, {})
    assert limiter.statistics().paused_for == 0
    limiter.observe(429, {})
    assert limiter.statistics().paused_for == pytest.approx(1.0)
    limiter.observe(503, {"Retry-After": "3"})
    assert limiter.statistics().paused_for == pytest.approx(3.0)
    limiter.observe(429, {"retry-after-ms": "10"})
    assert limiter.statistics().paused_for == pytest.approx(3.0), "a pause is never shortened"


def test_a_pause_makes_a_hopeless_head_fail_at_once(clock):
    """The sleeper is woken by the pause and told, not left to sleep out its time."""
    limiter = Limiter("a", requests="1/s burst 1", clock=clock)
    assert limiter.try_permit()
    start = clock.now()

    def wait():
        with pytest.raises(LimitTimeout), limiter.permit(timeout=2.0):
            pass

    waiter = gevent.spawn(wait)
    gevent.sleep(0)
    assert limiter.statistics().waiting == 1, "the moment under test never came"
    limiter.pause(60)
    waiter.get(timeout=5)
    assert clock.now() == start


def test_concurrency_is_given_back_however_the_block_ends(clock):
    """Slots come back after success, failure and kill; try_permit respects them."""
    limiter = Limiter("a", concurrency=2)
    with limiter.permit(), limiter.permit():
        assert limiter.try_permit().retry_after > 0
        assert limiter.statistics().in_use == 2
    with pytest.raises(KeyError), limiter.permit():
        raise KeyError

    def hold():
        with limiter.permit():
            Event().wait(60)

    holder = gevent.spawn(hold)
    gevent.sleep(0)
    assert limiter.statistics().in_use == 1
    holder.kill()
    assert limiter.statistics().in_use == 0


def test_a_slot_that_does_not_come_is_a_limit_timeout():
    """Waiting for concurrency ends in the same error as waiting for the rate."""
    limiter = Limiter("a", concurrency=1)
    with limiter.permit(), pytest.raises(LimitTimeout, match="no slot"), limiter.permit(timeout=0):
        pass
    assert limiter.statistics().in_use == 0


def test_call_would_rather_not_wait_long(clock):
    """Above max_wait comes WouldWait with the time to come back; below it the call is made."""
    limiter = Limiter("a", requests="1/s burst 1", tokens="100/s burst 50", clock=clock)
    assert limiter.call(str.upper, "x", tokens=len) == "X"
    with pytest.raises(WouldWait) as caught:
        limiter.call(str.upper, "x", max_wait=0.5, tokens=1)
    assert caught.value.eta == pytest.approx(1.0)
    assert limiter.call(str.upper, "x", max_wait=1.5) == "X"
    assert limiter.statistics().available["tokens"] == pytest.approx(50)


def test_limited_runs_each_call_under_a_permit(clock):
    """Costs may be functions of the call's arguments."""
    limiter = Limiter("a", requests="10/s burst 10", tokens="1/s burst 50", clock=clock)

    @limiter.limited(tokens=lambda text, *, factor: len(text) * factor)
    def ask(text, *, factor):
        """Ask."""
        return text

    assert ask("abc", factor=2) == "abc"
    assert ask.__doc__ == "Ask."
    assert limiter.statistics().available == {"requests": pytest.approx(9), "tokens": pytest.approx(44)}


def test_each_attempt_pays_and_failures_back_off(clock):
    """Two failures and a success cost three requests, and end the loop."""
    limiter = Limiter("a", requests="1/day burst 10", clock=clock)
    answers = iter([TooManyError({"Retry-After": "2"}), ConnectionResetError(), "fine"])
    numbers = []
    for attempt in limiter.attempts(deadline=60.0):
        with attempt:
            numbers.append(attempt.number)
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
    assert (answer, numbers) == ("fine", [1, 2, 3])
    assert limiter.statistics().granted == 3
    assert clock.now() >= 1002


def test_attempts_end_with_the_failure_itself(clock):
    """No time for another, or an error that does not heal: it is raised, not a time-out."""
    limiter = Limiter("a", requests="10/s", clock=clock)
    with pytest.raises(TooManyError):  # noqa: PT012
        for attempt in limiter.attempts(deadline=60.0):
            with attempt:
                raise TooManyError({"Retry-After": "90"})
    clock.advance(90)
    with pytest.raises(KeyError):  # noqa: PT012
        for attempt in limiter.attempts(deadline=60.0):
            with attempt:
                raise KeyError
    assert limiter.statistics().granted == 2


def test_a_permit_is_for_one_call():
    """Entering again, and settling before entering, are mistakes."""
    limiter = Limiter("a", requests="10/s")
    permit = limiter.permit()
    with pytest.raises(RuntimeError, match="inside the with block"):
        permit.settle(requests=1)
    with permit:
        pass
    with pytest.raises(RuntimeError, match="used before"), permit:
        pass


def test_dimensions_have_names_that_can_be_asked_for():
    """Options are no names for dimensions; nothing to limit is a mistake."""
    with pytest.raises(TypeError, match="cannot name a dimension"):
        Limiter("a", timeout="5/s")
    with pytest.raises(TypeError, match="limits nothing"):
        Limiter("a")
    with pytest.raises(ValueError, match="concurrency"):
        Limiter("a", concurrency=0)
    limiter = Limiter("a", images="5/s burst 2", requests="9/s", seconds="3/min")
    assert limiter.dimensions == ("requests", "images", "seconds")
    with limiter.permit(images=2, seconds=0.5):
        pass


def test_a_limiter_tells_about_itself(clock):
    """repr, statistics and facts show who waits and why."""
    limiter = Limiter("openai", requests="500/min", concurrency=2, clock=clock)
    limiter.pause(5)
    assert repr(limiter) == "<Limiter 'openai' requests 500/min burst 1, 0/2 held, 0 waiting, paused for 5 s>"
    assert facts.snapshot()["limiter"]["openai"]["paused_for"] == pytest.approx(5.0)
    seen = []
    unsubscribe = facts.subscribe(seen.append)
    try:
        limiter.try_permit()
        clock.advance(5)
        with limiter.permit():
            pass
    finally:
        unsubscribe()
    assert [type(one).__name__ for one in seen] == ["PermitRefused", "PermitGranted"]
