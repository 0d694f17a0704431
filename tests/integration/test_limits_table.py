"""One table of what a limiter does, held against a budget of its own and against every shared store.

Rates are so slow, or so fast, that the time a test takes decides nothing.
"""

from __future__ import annotations

import itertools
import random

import gevent
import pytest

from greenkit.errors import CostTooHighError, LimitTimeout
from greenkit.limits import Limiter

_numbers = itertools.count()


@pytest.fixture(params=["alone", "valkey", "postgres"])
def limiter(request):
    """Make limiters of names nobody has used."""
    share = {
        "alone": lambda: None,
        "valkey": lambda: request.getfixturevalue("greenkit_valkey").url,
        "postgres": lambda: request.getfixturevalue("greenkit_database"),
    }[request.param]()

    def make(**options):
        return Limiter(f"table-{request.param}-{next(_numbers)}", share=share, **options)

    return make


class StatusError(Exception):
    def __init__(self, status, **headers):
        super().__init__(status)
        self.status_code = status
        self.headers = {name.replace("_", "-"): str(value) for name, value in headers.items()}


def stand_in_line(limit, many, **options):
    """Start `many` waiters; return their greenlets and the list of those through, in order."""
    passed = []

    def one(number):
        with limit.permit(**options):
            passed.append(number)

    return [gevent.spawn(one, number) for number in range(many)], passed


def until_waiting(limit, many):
    while limit.statistics().waiting < many:
        gevent.sleep(0.001)


def test_a_burst_goes_at_once_and_then_nothing(limiter):
    """What is refused says when it would pass, and takes nothing."""
    limit = limiter(requests="1/min burst 5")
    assert [bool(limit.try_permit()) for _ in range(7)] == [True] * 5 + [False] * 2
    assert 30 < limit.try_permit().retry_after <= 60
    assert limit.statistics().granted == 5


def test_dimensions_are_taken_together(limiter):
    """A refusal by one leaves the other as it was."""
    limit = limiter(requests="1/min burst 10", tokens="10/min burst 10")
    assert limit.try_permit(tokens=8)
    assert not limit.try_permit(tokens=8)
    assert [bool(limit.try_permit()) for _ in range(10)] == [True] * 9 + [False]


def test_a_cost_above_the_burst_is_refused_at_once(limiter):
    """No store is asked."""
    with pytest.raises(CostTooHighError, match="burst of 10"):
        limiter(tokens="10/min burst 10").permit(tokens=11)


def test_settling_refunds_and_charges(limiter):
    """The next one finds what the real cost left."""
    limit = limiter(tokens="1/day burst 100")
    with limit.permit(tokens=90) as permit:
        permit.settle(tokens=20)
    with limit.permit(tokens=75) as permit:
        permit.settle(tokens=120)
        assert permit.costs == {"tokens": 120}
    while limit.statistics().available["tokens"] > 0:
        gevent.sleep(0.001)  # said soon, not at once
    assert not limit.try_permit(tokens=1)
    assert limit.try_permit(tokens=0)


def test_a_wait_that_is_hopeless_is_told_at_once(limiter):
    """The error says when; nothing is taken and nobody is left in line."""
    limit = limiter(requests="1/day burst 1")
    assert limit.try_permit()
    with pytest.raises(LimitTimeout) as caught, limit.permit(timeout=3600.0):
        pass
    assert caught.value.retry_after > 3600
    with pytest.raises(LimitTimeout), limit.permit(timeout=0):
        pass
    seen = limit.statistics()
    assert (seen.waiting, seen.granted, seen.timed_out) == (0, 1, 2)


def test_no_time_to_wait_is_time_enough_when_it_is_open(limiter):
    """A permit with a timeout of 0 passes while the budget lasts."""
    limit = limiter(requests="1/day burst 2")
    for _ in range(2):
        with limit.permit(timeout=0):
            pass
    with pytest.raises(LimitTimeout), limit.permit(timeout=0):
        pass


def test_a_pause_holds_everybody_until_it_is_ended(limiter):
    """Refused meanwhile; resumed, those in line pass."""
    limit = limiter(requests="1000/s burst 100")
    limit.pause(1000)
    assert limit.try_permit().retry_after > 900
    jobs, passed = stand_in_line(limit, 3)
    until_waiting(limit, 3)
    assert not passed
    limit.resume()
    gevent.joinall(jobs, raise_error=True)
    assert passed == [0, 1, 2]


def test_a_429_pauses_slows_down_and_refunds_all_but_the_request(limiter):
    """Also what is learnt from its headers."""
    limit = limiter(requests="1/min burst 10", tokens="1/min burst 100")
    with pytest.raises(StatusError), limit.permit(tokens=60):
        raise StatusError(429, retry_after=100)
    assert 50 < limit.try_permit().retry_after <= 100
    limit.resume()
    assert limit.try_permit(tokens=100), "the tokens came back"
    seen = limit.statistics()
    assert (seen.rejected, seen.granted) == (1, 2)
    assert 0.8 <= seen.pace < 0.9
    assert seen.available["requests"] == pytest.approx(8, abs=0.5)


def test_what_is_left_at_the_server_is_adopted(limiter):
    """Others use the same key: no more goes now than the server says is left."""
    limit = limiter(requests="1/min burst 50", feedback="openai")
    limit.observe(200, {"x-ratelimit-remaining-requests": "3"})
    assert [bool(limit.try_permit()) for _ in range(5)] == [True] * 3 + [False] * 2


def test_slots_are_counted_and_come_back(limiter):
    """However the block ends."""
    limit = limiter(concurrency=2)
    with limit.permit(), limit.permit():
        assert not limit.try_permit()
        jobs, passed = stand_in_line(limit, 2)
        until_waiting(limit, 2)
        assert not passed
    gevent.joinall(jobs, raise_error=True)
    with pytest.raises(KeyError), limit.permit():
        raise KeyError
    assert limit.statistics().in_use == 0
    assert limit.try_permit()


def test_nobody_overtakes(limiter):
    """Waiters pass in the order they came; while somebody waits, try_permit says no."""
    limit = limiter(requests="500/s burst 1", tokens="1000/s burst 50")
    jobs, passed = stand_in_line(limit, 60)
    until_waiting(limit, 20)
    assert not limit.try_permit(tokens=1)
    gevent.joinall(jobs, raise_error=True)
    assert passed == list(range(60))


def test_a_big_cost_is_not_starved_by_small_ones(limiter):
    """It holds its place at the head."""
    limit = limiter(tokens="500/s burst 100")
    assert limit.try_permit(tokens=100)
    order = []

    def one(tokens):
        with limit.permit(tokens=tokens):
            order.append(tokens)

    jobs = [gevent.spawn(one, tokens) for tokens in (80, *[1] * 20)]
    gevent.joinall(jobs, raise_error=True)
    assert order[0] == 80


def test_priorities_go_first(limiter):
    """Those who retry, then the normal ones, then the batch."""
    limit = limiter(requests="100/s burst 1")
    limit.pause(1000)
    order = []

    def one(priority):
        with limit.permit(priority=priority):
            order.append(priority)

    jobs = [gevent.spawn(one, name) for name in ("batch", "normal", "retry", "normal")]
    until_waiting(limit, 4)
    limit.resume()
    gevent.joinall(jobs, raise_error=True)
    assert order == ["retry", "normal", "normal", "batch"]


def test_killed_waiters_lose_nobody_a_permit(limiter):
    """Thirty permits, sixty waiters, of whom some die at any moment: thirty pass."""
    killed = 0
    for seed in range(6):
        rng = random.Random(seed)
        limit = limiter(requests="1/day burst 30", concurrency=1000)
        limit.pause(1000)
        jobs, passed = stand_in_line(limit, 60)
        until_waiting(limit, 60)
        limit.resume()
        for _ in range(15):
            alive = [job for job in jobs if not job.ready()]
            victim = rng.choice(alive[:20])
            killed += not victim.ready()
            victim.kill(block=False)
            gevent.sleep(rng.choice([0, 0, 0.0003, 0.001]))
        with gevent.Timeout(20):
            while len(passed) < 30:
                gevent.sleep(0.01)
        gevent.sleep(0.05)
        assert len(passed) == 30
        gevent.killall(jobs)
        assert limit.statistics().in_use == 0
    assert killed == 90


def test_a_killed_try_gives_back_what_was_on_its_way(limiter):
    """Killed before the answer, or between the answer and its turn."""
    limit = limiter(requests="1/day burst 10", concurrency=50)
    rng = random.Random(1)
    through = []

    def attempt():
        permit = limit.try_permit()
        if permit:
            through.append(permit)

    for _ in range(40):
        job = gevent.spawn(attempt)
        gevent.sleep(rng.choice([0, 0.0003, 0.001]))
        job.kill()
    before = len(through)
    gevent.sleep(0.2)  # refunds are said soon
    while limit.try_permit():
        before += 1
    assert before == 10


def test_other_limits_apply_to_those_in_line(limiter):
    """configure() times the head anew."""
    limit = limiter(requests="1/day burst 1")
    assert limit.try_permit()
    jobs, passed = stand_in_line(limit, 3)
    until_waiting(limit, 3)
    limit.configure(requests="1000/s burst 10")
    gevent.joinall(jobs, raise_error=True)
    assert passed == [0, 1, 2]


def test_a_shadow_lets_all_through(limiter):
    """And counts what it would have held back."""
    limit = limiter(requests="1/day burst 2", shadow=True)
    for _ in range(5):
        with limit.permit():
            pass
    assert limit.statistics().shadowed == 3


def test_keys_have_budgets_of_their_own(limiter):
    """Taken, settled, waited for and paused one by one; the limiter's own is another."""
    limit = limiter(requests="1/day burst 3", tokens="1/day burst 100")
    assert [bool(limit.key("ann").try_permit()) for _ in range(4)] == [True] * 3 + [False]
    with limit.key("bob").permit(tokens=90) as permit:
        permit.settle(tokens=10)
    while limit.key("bob").statistics().available["tokens"] < 89:
        gevent.sleep(0.001)
    assert limit.key("bob").try_permit(tokens=90)
    limit.key("cid").pause(1000)
    assert not limit.key("cid").try_permit()
    limit.key("cid").resume()
    assert limit.key("cid").try_permit()
    assert limit.try_permit()
    with pytest.raises(LimitTimeout, match=":ann"), limit.key("ann").permit(timeout=5):
        pass


def test_a_key_is_waited_for_in_order(limiter):
    """And its slots are its own."""
    limit = limiter(requests="200/s burst 1", concurrency=1)
    jobs, passed = stand_in_line(limit.key(1), 20)
    others, elsewhere = stand_in_line(limit.key(2), 20)
    gevent.joinall(jobs + others, raise_error=True)
    assert passed == elsewhere == list(range(20))
    assert limit.statistics().in_use == 0
    assert limit.statistics().granted == 40
