"""Several windows of one dimension: charged together, standing together, each at its own rate."""

from __future__ import annotations

import random

import gevent
import pytest

from greenkit.errors import ConfigError, CostTooHighError, LimitTimeout
from greenkit.limits import Limiter, Quota, Rate
from greenkit.limits._feedback import meant
from greenkit.limits._gcra import rules_of
from greenkit.limits._local import LocalState
from greenkit.limits._rates import windows
from greenkit.testing import FakeClock
from tests.unit.limits.simulate import sleeping_moves_the_clock

BOTH = ["600/min burst 10", "1_000/day burst 20"]


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    sleeping_moves_the_clock(monkeypatch, clock)
    gevent.get_hub()  # a thread without one waits natively, in real time
    return clock


def left(limiter):
    return {name: round(units, 6) for name, units in limiter.statistics().windows.items()}


class TooManyError(Exception):
    status_code = 429


def test_all_windows_are_charged_by_one_cost(clock):
    """A permit that says nothing costs one of each; the statistics show each, and the least of them."""
    limiter = Limiter("a", requests=BOTH, clock=clock)
    for _ in range(5):
        with limiter.permit() as permit:
            assert permit.costs == {"requests": 1.0}
    assert left(limiter) == {"requests 600/min": 5, "requests 1000/day": 15}
    assert limiter.statistics().available == {"requests": pytest.approx(5)}
    assert limiter.dimensions == ("requests",)


def test_the_slower_window_holds_back_when_it_is_used_up(clock):
    """The minute has room again after a second, the day has not: and the answer says which."""
    limiter = Limiter("a", requests=BOTH, clock=clock)
    granted = 0
    for _ in range(100):
        permit = limiter.try_permit()
        granted += bool(permit)
        clock.advance(0.1)
    assert granted == 20
    refusal = limiter.try_permit()
    assert refusal.window == "requests 1000/day"
    assert refusal.retry_after == pytest.approx(86.4 - 10, rel=0.01)
    with pytest.raises(LimitTimeout, match="requests 1000/day is used up") as caught:
        limiter.permit(timeout=1).__enter__()
    assert caught.value.window == "requests 1000/day"
    start = clock.now()
    with limiter.permit():
        assert clock.now() - start == pytest.approx(86.4 - 10, rel=0.01)


def test_all_windows_stand_after_a_refusal_of_the_server(clock):
    """A failed request counts in every window; the tokens of a 429 are refunded in every window."""
    limiter = Limiter("a", requests=BOTH, tokens=["60_000/min burst 900", "1e6/day burst 900"], clock=clock)
    for _ in range(3):
        with pytest.raises(TooManyError), limiter.permit(tokens=100):
            raise TooManyError
        limiter.resume()
    seen = left(limiter)
    assert (seen["requests 600/min"], seen["requests 1000/day"]) == (7, 17)
    assert (seen["tokens 60000/min"], seen["tokens 1000000/day"]) == (900, 900)


def test_what_was_never_sent_is_refunded_in_all_windows(clock):
    """A refused connection costs nothing anywhere."""
    limiter = Limiter("a", requests=BOTH, clock=clock)
    with pytest.raises(ConnectionRefusedError), limiter.permit():
        raise ConnectionRefusedError
    assert left(limiter) == {"requests 600/min": 10, "requests 1000/day": 20}


def test_settling_corrects_every_window(clock):
    """A refund and a debt, in the minute and in the day."""
    limiter = Limiter("a", tokens=["600/min burst 100", "10_000/day burst 500"], clock=clock)
    with limiter.permit(tokens=50) as permit:
        permit.settle(tokens=10)
    assert left(limiter) == {"tokens 600/min": 90, "tokens 10000/day": 490}
    with limiter.permit(tokens=50) as permit:
        permit.settle(tokens=200)
    assert left(limiter) == {"tokens 600/min": -110, "tokens 10000/day": 290}


def test_every_key_has_all_windows():
    """At rest it is a tuple of numbers; what is left comes back from it."""
    clock = FakeClock()
    limiter = Limiter("a", requests=["3/min", "4/day burst 4"], clock=clock)
    assert [bool(limiter.key("x").try_permit()) for _ in range(4)] == [True, True, True, False]
    assert limiter.key("y").try_permit()
    clock.advance(60)
    assert [bool(limiter.key("x").try_permit()) for _ in range(2)] == [True, False]
    assert limiter.key("x").try_permit().window == "requests 4/day"


def test_windows_can_be_changed_but_neither_added_nor_removed(clock):
    """What is out stays out, by window."""
    limiter = Limiter("a", requests=BOTH, clock=clock)
    for _ in range(5):
        assert limiter.try_permit()
    limiter.configure(requests=["300/min burst 10", "500/day burst 20"])
    assert left(limiter) == {"requests 300/min": 5, "requests 500/day": 15}
    for wrong in ("300/min", ["1/s", "300/min", "500/day"]):
        with pytest.raises(TypeError, match="more windows"):
            limiter.configure(requests=wrong)
    assert left(limiter) == {"requests 300/min": 5, "requests 500/day": 15}


def test_the_order_of_writing_does_not_matter_and_the_shortest_is_the_plain_one():
    """In a shared record it has the name that a release with one window uses."""
    for given in (BOTH, BOTH[::-1]):
        rules = rules_of({"requests": windows("requests", given)}, strict=False)
        assert rules.names == ("requests", "requests@86400")
        assert rules.dimensions == ("requests",)


@pytest.mark.parametrize(
    ("quota", "window"),
    [
        (Quota(limit=500, remaining=3, period=60), "500/min"),
        (Quota(limit=14_400, remaining=3, period=60), "10000/day"),
        (Quota(limit=400, remaining=3, period=60), "500/min"),
        (Quota(remaining=3, period=60), "500/min"),
        (Quota(remaining=3), "500/min"),
        (Quota(limit=9_000), "10000/day"),
    ],
)
def test_what_the_server_says_is_of_the_window_it_is_nearest_to(quota, window):
    """OpenAI's header is of the minute, Groq's of the day, and neither says which."""
    rules = rules_of({"requests": windows("requests", ["500/min", "10_000/day"])}, strict=False)
    [(_, rule)] = meant({"requests": quota, "images": Quota(1, 1, 1)}, rules)
    assert str(rule.rate) == window


def test_a_daily_limit_in_the_headers_leaves_the_minute_alone(clock):
    """Half of the day's limit halves the day's rate; what is left of the day is adopted by the day."""
    limiter = Limiter("a", requests=BOTH, feedback="openai", clock=clock)
    limiter.observe(200, {"x-ratelimit-limit-requests": "900", "x-ratelimit-remaining-requests": "4"})
    assert left(limiter) == {"requests 600/min": 10, "requests 1000/day": 4}
    assert limiter.try_permit()
    limiter.observe(200, {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "2"})
    assert left(limiter) == {"requests 600/min": 2, "requests 1000/day": 3}


def test_a_cost_too_high_for_one_window_names_it():
    """The minute would take it; the day never could."""
    limiter = Limiter("a", tokens=["1000/min", "2_000/day burst 100"])
    with pytest.raises(
        CostTooHighError, match=r"tokens=500 exceeds the burst of 100 that was given to 2000/day"
    ):
        limiter.permit(tokens=500)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"requests": []}, ConfigError, "limits nothing"),
        ({"requests": ["5/min", "9/60s"]}, ConfigError, "same period"),
        ({"requests": ["5/min", 9]}, TypeError, "not 9"),
        ({"requests": 500}, TypeError, "not 500"),
        ({"request": "5/s"}, TypeError, "Write requests="),
        ({"requets": "5/s"}, TypeError, "Write requests="),
        ({"rpm": "500/min"}, TypeError, "Write requests="),
        ({"TPM": "500/min"}, TypeError, "Write tokens="),
        ({"token": "500/min"}, TypeError, "Write tokens="),
        ({"timeout": "5/s"}, TypeError, "option"),
    ],
)
def test_what_would_limit_nothing_is_refused(options, error, why):
    """A typing mistake is a dimension of which every permit costs 0."""
    with pytest.raises(error, match=why):
        Limiter("a", **options)


def test_other_names_are_dimensions_of_their_own():
    """What people count beside requests and tokens."""
    limiter = Limiter("a", input_tokens="9/s", output_tokens="9/s", images="9/s", cost="0.50/min", rows="1/s")
    assert limiter.dimensions == ("input_tokens", "output_tokens", "images", "cost", "rows")


@pytest.mark.parametrize("seed", range(8))
def test_no_window_is_ever_exceeded_however_greenlets_ask(clock, seed, monkeypatch):
    """Waits, tries and kills at random: each window keeps its own bound over every stretch of time."""
    rng = random.Random(seed)
    limiter = Limiter("a", requests=["60/min burst 4", "40/h burst 15", "50/day burst 30"], clock=clock)
    booked = []  # (instant, 1 or -1): when it was granted, not when the greenlet ran
    admit, take_back = LocalState.admit, LocalState.take_back

    def note_admit(store, costs, now, *, credit):
        wait = admit(store, costs, now, credit=credit)
        if not wait:
            booked.append((now, 1))
        return wait

    def note_take_back(store, costs, now):
        booked.append((now, -1))
        take_back(store, costs, now)

    monkeypatch.setattr(LocalState, "admit", note_admit)
    monkeypatch.setattr(LocalState, "take_back", note_take_back)

    def wait():
        with limiter.permit():
            pass

    jobs, killed = [], 0
    for _ in range(500):
        what = rng.random()
        if what < 0.4:
            jobs.append(gevent.spawn(wait))
        elif what < 0.7:
            limiter.try_permit()
        elif what < 0.8 and jobs:
            victim = rng.choice(jobs)
            killed += not victim.ready()
            victim.kill(block=False)
        else:
            clock.advance(rng.choice([0, 0.5, 20, 900]))
            gevent.sleep(0)
    gevent.killall(jobs, block=False)
    gevent.sleep(0)
    assert killed > 0
    assert len(booked) > 35
    for rate in (Rate(60, 60, 4), Rate(40, 3600, 15), Rate(50, 86_400, 30)):
        for first in range(len(booked)):
            total = 0
            for instant, sign in booked[first:]:
                total += sign
                bound = rate.burst + (instant - booked[first][0] + 0.01) * rate.amount / rate.period
                assert total <= bound + 1e-6, rate
