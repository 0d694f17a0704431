from __future__ import annotations

import random
import tracemalloc

import gevent
import pytest

from greenkit.errors import CostTooHighError
from greenkit.limits import Limiter
from greenkit.limits._queue import WakeTimer
from greenkit.testing import FakeClock, assert_no_switch
from tests.unit.limits.simulate import sleeping_moves_the_clock
from tests.unit.limits.test_threads import natively


@pytest.fixture
def clock():
    return FakeClock()


def test_keys_agree_with_a_limiter_each(clock):
    """Whatever is taken, settled, forgotten and cleaned up in between, each key is as one alone would be."""
    forgotten = 0
    for seed in range(20):
        rng = random.Random(seed)
        rates = {"requests": "10/min burst 5", "tokens": "600/min burst 50"}
        many = Limiter("many", **rates, clock=clock)
        alone = {key: Limiter(f"{key}", **rates, clock=clock) for key in range(12)}
        for _ in range(400):
            clock.advance(rng.choice([0.0, 0.1, 1.0, 1.0, 40.0 if rng.random() < 0.1 else 0.0]))
            if rng.random() < 0.2 and many._keys is not None:
                many._keys._clean_up()
            key, tokens = rng.randrange(12), rng.randrange(50)
            permits = many.key(key).try_permit(tokens=tokens), alone[key].try_permit(tokens=tokens)
            assert bool(permits[0]) == bool(permits[1])
            if not permits[0]:
                assert permits[0].retry_after == pytest.approx(permits[1].retry_after)
                continue
            real = rng.choice([0, tokens, 2 * tokens])
            for permit in permits:
                permit.settle(tokens=real)
            seen = many.key(key).statistics().available
            assert seen == pytest.approx(alone[key].statistics().available)
        clock.advance(10_000)
        for _ in range(20):
            many._keys._clean_up()
            clock.advance(1000)
        forgotten += 12 - many.statistics().keys
    assert forgotten == 240, "full budgets are still remembered"


def test_what_is_in_debt_is_not_forgotten(clock):
    """It outlives the time a budget takes to fill."""
    api = Limiter("api", tokens="60/min burst 60", clock=clock)
    api.key("ann").try_permit(tokens=60).settle(tokens=1000)
    for _ in range(14):
        clock.advance(60)
        api._keys._clean_up()
    assert not api.key("ann").try_permit(tokens=1)
    for _ in range(6):
        clock.advance(60)
        api._keys._clean_up()
    assert api.statistics().keys == 0


def test_an_idle_key_costs_less_than_a_hundred_bytes(clock):
    """A number and its place in a dict; and all of them go when nobody comes any more."""
    api = Limiter("api", requests="10/min burst 5", clock=clock)
    keys = list(range(100_000))
    api.key(0).try_permit()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys:
            api.key(key).try_permit()
        each = (tracemalloc.get_traced_memory()[0] - before) / len(keys)
    finally:
        tracemalloc.stop()
    assert each <= 100
    assert api.statistics().keys == len(keys)
    turns = 0
    while api.statistics().keys:
        clock.advance(31)
        api._keys._clean_up()
        turns += 1
    assert turns > 100, "all were thrown away in one go"


def test_no_hub_is_needed_to_forget(clock):
    """Where no timer runs, permits clean up."""
    api = Limiter("api", requests="60/min burst 1", clock=clock)

    def plain():
        for key in range(1000):
            api.key(key).try_permit()
        clock.advance(5)
        for key in range(1000):
            clock.advance(0.01)
            api.key(-key).try_permit()

    natively(plain)
    assert api.statistics().keys < 1000


def test_a_timer_forgets_where_a_hub_runs(clock, monkeypatch):
    """Nobody has to come back for it."""
    api = Limiter("api", requests="60/min burst 10", clock=clock)
    ann = api.key("ann")
    mine, set_for = api._keys._wake_timer, []

    def note(self, hub, seconds):
        if self is mine:  # limiters that earlier tests left behind have alarms too
            set_for.append(seconds)

    monkeypatch.setattr(WakeTimer, "set", note)
    gevent.sleep(0)  # makes sure there is a hub
    ann.try_permit()
    assert set_for
    while set_for:
        clock.advance(set_for.pop())
        mine._callback()
    assert api.statistics().keys == 0


def test_an_open_key_is_taken_without_a_switch():
    """A permit, its settlement and a refusal."""
    api = Limiter("api", requests="10/day burst 2", tokens="10/day burst 100")
    with assert_no_switch():
        with api.key("ann").permit(tokens=50) as permit:
            permit.settle(tokens=10)
        assert api.key("ann").try_permit(tokens=90)
        assert not api.key("ann").try_permit()


def test_a_key_in_use_has_one_budget_whoever_asks(clock, monkeypatch):
    """While somebody waits, others asking for the same key stand behind."""
    sleeping_moves_the_clock(monkeypatch, clock)
    api = Limiter("api", requests="100/s burst 1", clock=clock)
    ann = api.key("ann")
    order = []

    def one(number):
        with api.key("ann").permit():
            order.append(number)

    jobs = [gevent.spawn(one, number) for number in range(10)]
    gevent.sleep(0)
    assert api.statistics().waiting == 9
    assert not ann.try_permit()
    assert api.key("bob").try_permit()
    jobs[4].kill()
    gevent.joinall(jobs, raise_error=True)
    assert order == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert api._keys.live == []
    assert api.statistics().granted == 10


def test_other_limits_apply_to_keys_too(clock):
    """Those at rest and those in use; what is out stays out."""
    api = Limiter("api", requests="60/min burst 4", clock=clock)
    ann, bob = api.key("ann"), api.key("bob")
    for _ in range(3):
        ann.try_permit()
    bob.pause(1000)
    api.configure(requests="6/min burst 4")
    assert ann.try_permit()
    assert ann.try_permit().retry_after == pytest.approx(10.0)
    bob.resume()
    assert [bool(bob.try_permit()) for _ in range(5)] == [True] * 4 + [False]
    api.configure(requests="6/min burst 2")
    with pytest.raises(CostTooHighError):
        ann.permit(requests=3)


def test_threads_share_the_keys():
    """Four threads and one key: what there is, once."""
    api = Limiter("api", requests="1/day burst 500", concurrency=100)
    granted = []

    def work():
        for number in range(300):
            permit = api.key(number % 2).try_permit()
            if permit:
                with permit:
                    granted.append(1)

    natively(work, work, work, work)
    assert len(granted) == 1000
    assert api.statistics().in_use == 0
