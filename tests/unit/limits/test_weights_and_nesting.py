"""Keys of different rates, and permits of a key and the whole at once."""

from __future__ import annotations

import gevent
import pytest

from greenkit.errors import CostTooHighError, LimitTimeout
from greenkit.limits import Limiter
from greenkit.testing import FakeClock, kill_at_every_switch
from tests.unit.limits.simulate import sleeping_moves_the_clock


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock(1000)
    sleeping_moves_the_clock(monkeypatch, clock, turns=8)
    return clock


def grants(limiter, **costs):
    """Return how many go now."""
    many = 0
    while limiter.try_permit(**costs):
        many += 1
    return many


def available(limiter):
    return limiter.statistics().available


# -- weights ------------------------------------------------------------------------------------------------


def test_a_weight_is_times_the_rate_and_the_burst(clock):
    """A tenant that pays has twice the rate, one that does not a tenth."""
    limiter = Limiter("a", requests="100/s burst 20", clock=clock)
    keys = {weight: limiter.key(weight, weight=weight) for weight in (0.1, 1, 2.0)}
    assert {weight: grants(key) for weight, key in keys.items()} == {0.1: 2, 1: 20, 2.0: 40}
    clock.advance(0.1)
    assert {weight: grants(key) for weight, key in keys.items()} == {0.1: 1, 1: 10, 2.0: 20}


@pytest.mark.parametrize("tokens", [None, "1000/s burst 1000"])
def test_a_new_weight_leaves_what_is_out_out(clock, tokens):
    """A tenant that is upgraded has used as many units as before, at rest and in use."""
    limiter = Limiter("a", requests="100/s burst 20", tokens=tokens, clock=clock)
    assert grants(limiter.key("t")) == 20
    assert grants(limiter.key("t", weight=2.0)) == 20
    assert grants(limiter.key("t", weight=0.5)) == 0
    limiter.key("busy").pause(0.0001)
    assert grants(limiter.key("busy", weight=2.0)) == 0
    clock.advance(0.001)
    assert grants(limiter.key("busy", weight=2.0)) == 40


def test_slots_follow_the_weight(clock):
    """And at least one stays."""
    limiter = Limiter("a", concurrency=4, clock=clock)
    assert [grants(limiter.key(weight, weight=weight)) for weight in (0.01, 0.5, 3)] == [1, 2, 12]


def test_a_cost_has_to_pass_the_burst_of_its_weight(clock):
    """A light key refuses what a heavy one takes."""
    limiter = Limiter("a", tokens="100/s burst 100", clock=clock)
    assert limiter.key("t", weight=2).try_permit(tokens=150)
    with pytest.raises(CostTooHighError):
        limiter.key("t", weight=0.5).permit(tokens=60)


def test_weights_follow_configure(clock):
    """Also of a door that is kept, and of a key somebody waits for."""
    limiter = Limiter("a", requests="10/hour burst 1", clock=clock)
    key = limiter.key("t", weight=2)
    assert grants(key) == 2
    start = clock.now()
    waiter = gevent.spawn(key.permit().__enter__)
    gevent.sleep(0)
    limiter.configure(requests="5/s burst 10")
    waiter.get(timeout=10)
    assert clock.now() - start < 1
    clock.advance(10.0)
    assert grants(key) == 20


def test_weighted_keys_are_forgotten(clock):
    """Their weights are kept no longer than their numbers."""
    limiter = Limiter("a", requests="10/s burst 10", clock=clock)
    for number in range(500):
        limiter.key(number, weight=2).try_permit()
        clock.advance(0.1)
    ages = limiter._keys._ages
    assert sum(len(age.weights) for age in ages) <= sum(len(age.tats) for age in ages) < 100
    assert not limiter._keys._weights


@pytest.mark.parametrize(
    ("weight", "error"), [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), (True, TypeError)]
)
def test_a_weight_that_is_none_is_refused(clock, weight, error):
    """Said at once, and not by a division."""
    limiter = Limiter("a", requests="10/s", clock=clock)
    if weight is not True:
        with pytest.raises(error, match="weight"):
            limiter.key("t", weight=weight)
    else:
        assert limiter.key("t", weight=weight).try_permit(), "True is 1"


# -- a key inside the whole ---------------------------------------------------------------------------------


def nested(limiter, **options):
    return limiter.key("t", weight=0.5).inside(limiter, **options)


def test_a_permit_of_both_is_charged_to_both(clock):
    """At what it settles for, and given back where nothing was sent."""
    llm = Limiter("llm", requests="100/s burst 100", tokens="1000/s burst 1000", clock=clock)
    with nested(llm).permit(tokens=100) as permit:
        assert permit.costs == {"requests": 1, "tokens": 100}
        permit.settle(tokens=40)
    assert available(llm) == {"requests": pytest.approx(99), "tokens": pytest.approx(960)}
    assert available(llm.key("t", weight=0.5)) == {
        "requests": pytest.approx(49),
        "tokens": pytest.approx(460),
    }
    with pytest.raises(ConnectionRefusedError), nested(llm).permit(tokens=100):
        raise ConnectionRefusedError
    assert available(llm)["tokens"] == pytest.approx(960)
    assert available(llm.key("t", weight=0.5))["tokens"] == pytest.approx(460)


@pytest.mark.parametrize("short", ["key", "whole"])
def test_a_refusal_takes_nothing_of_either(clock, short):
    """Whichever is in the way."""
    llm = Limiter("llm", tokens="1000/s burst 1000", concurrency=10, clock=clock)
    key = llm.key("t", weight=0.5)
    taken = key.permit(tokens=480) if short == "key" else llm.permit(tokens=980)
    taken.__enter__()
    before = available(llm), available(key)
    assert not nested(llm).try_permit(tokens=50)
    with pytest.raises(LimitTimeout):
        nested(llm).permit(tokens=50, timeout=0.001).__enter__()
    assert (available(llm), available(key)) == before
    assert llm.statistics().in_use == 1


def test_the_dimensions_may_differ(clock):
    """Two limiters: a user's calls, and the tokens of all."""
    users = Limiter("users", requests="10/s burst 2", clock=clock)
    llm = Limiter("llm", tokens="1000/s burst 1000", concurrency=5, clock=clock)
    both = users.key("u").inside(llm)
    with both.permit(tokens=10) as permit:
        assert permit.costs == {"requests": 1, "tokens": 10}
        assert llm.statistics().in_use == 1
    with both.permit(tokens=10):
        pass
    assert not both.try_permit(tokens=10)
    assert users.key("other").inside(llm).try_permit(tokens=10)
    with pytest.raises(TypeError, match="pages"):
        both.permit(pages=1)
    with pytest.raises(TypeError, match="pages"), llm.permit() as permit:
        permit.settle(pages=1)
    with pytest.raises(CostTooHighError):
        both.permit(tokens=1001)


def test_who_waits_for_a_key_holds_up_nobody_else(clock):
    """The whole is asked when the key's turn has come."""
    llm = Limiter("llm", requests="10/s burst 10", clock=clock)
    slow, fast = llm.key("slow", weight=0.1), llm.key("fast")
    order = []

    def call(key, name):
        with key.inside(llm).permit():
            order.append(name)

    jobs = [gevent.spawn(call, slow, "slow") for _ in range(5)]
    jobs += [gevent.spawn(call, fast, "fast") for _ in range(8)]
    gevent.joinall(jobs, raise_error=True)
    assert order[:9] == ["slow"] + ["fast"] * 8


@pytest.mark.parametrize(("feedback", "paused"), [("outer", "whole"), ("inner", "key")])
def test_the_server_is_heard_by_one_of_the_two(clock, feedback, paused):
    """By the whole unless told otherwise."""
    llm = Limiter("llm", requests="100/s burst 100", clock=clock)
    nested(llm, feedback=feedback).observe(429, {"retry-after": "7"})
    seen = {"whole": llm.statistics().paused_for, "key": llm.key("t").statistics().paused_for}
    assert [name for name, seconds in seen.items() if seconds] == [paused]


def test_one_goes_first_after_a_pause_of_either(clock):
    """And its answer lets the rest go."""
    llm = Limiter("llm", requests="100/s burst 100", clock=clock)
    both = nested(llm)
    both.observe(429, {"retry-after": "7"})
    llm.key("t").observe(429, {"retry-after": "7"})
    clock.advance(7.0)
    probe = both.try_permit()
    assert not both.try_permit()
    assert not llm.try_permit()
    with probe:
        pass
    assert grants(both) > 10


def test_attempts_and_calls_pay_both(clock):
    """Whatever way it is asked."""
    llm = Limiter("llm", requests="100/s burst 100", clock=clock)
    both = nested(llm)
    for attempt in both.attempts(deadline=60.0):
        with attempt:
            if attempt.number == 1:
                raise ConnectionResetError
    both.call(int)
    both.limited()(int)()
    assert llm.statistics().granted == 2 * 4, "four of the whole, four of its key"


def test_a_key_and_its_nesting_tell_what_they_are(clock):
    """In errors and in the debugger."""
    llm = Limiter("llm", requests="100/s", clock=clock)
    assert repr(llm.key("t")) == "<key 't' of limiter 'llm'>"
    assert repr(llm.key("t", weight=0.5).inside(llm)).startswith(
        "<<key 't' of limiter 'llm', weight 0.5> inside <"
    )


@pytest.mark.parametrize("wrong", ["itself", "clock", "shadow", "feedback", "type"])
def test_what_cannot_be_nested_says_so(clock, wrong):
    """At once, in words."""
    llm = Limiter("llm", requests="100/s", clock=clock)
    with pytest.raises((TypeError, ValueError)) as found:
        {
            "itself": lambda: llm.inside(llm),
            "clock": lambda: llm.key("t").inside(Limiter("b", requests="1/s")),
            "shadow": lambda: llm.key("t").inside(Limiter("b", requests="1/s", shadow=True, clock=clock)),
            "feedback": lambda: llm.key("t").inside(llm, feedback="both"),
            "type": lambda: llm.key("t").inside("llm"),
        }[wrong]()
    assert str(found.value)


class Scene:
    """Four callers of two keys inside a whole that lets two be out at once."""

    def __init__(self, clock):
        self.limiter = Limiter(
            "a", requests="10/s burst 2", tokens="100/s burst 40", concurrency=2, clock=clock
        )
        self.waiters, self.charged = [], 0

    def call(self, number):
        key = self.limiter.key(number % 2)
        with key.inside(self.limiter).permit(tokens=10, timeout=0.35 if number == 3 else None) as permit:
            self.charged += 1
            gevent.sleep(0)
            permit.settle(tokens=10)

    def crowd(self):
        self.waiters = [gevent.spawn(self.call, number) for number in range(4)]
        gevent.joinall(self.waiters)

    def name(self, greenlet):
        return "waiter" if greenlet in self.waiters else None

    def check(self):
        """No slot and no charge is left of those that never went."""
        gevent.joinall(self.waiters, timeout=20)
        assert all(waiter.dead for waiter in self.waiters)
        seen = self.limiter.statistics()
        assert (seen.waiting, seen.in_use) == (0, 0)
        assert seen.granted == 2 * self.charged
        whole, clock = self.limiter._budget.state, self.limiter.clock
        clock.advance(60.0)
        assert available(self.limiter) == {"requests": 2, "tokens": 40}
        assert whole.held == 0


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
def test_killed_at_any_switch_nothing_is_half_charged(clock, error):
    """In the key's line, in the whole's, on the way and while it is held."""
    report = kill_at_every_switch(
        lambda scene: scene.crowd(), Scene.check, error=error, whom=lambda who, scene: scene.name(who),
        fresh=lambda: Scene(clock),
    )  # fmt: skip
    assert dict(report.victims)["waiter"] > 10


def test_a_kill_in_the_whole_gives_the_key_back(clock):
    """It has taken its key's turn, and waits for the whole: the kill gives both back."""
    llm = Limiter("llm", requests="100/s burst 100", concurrency=1, clock=clock)
    key = llm.key("t")
    with llm.permit():
        waiter = gevent.spawn(key.inside(llm).permit().__enter__)
        gevent.sleep(0)
        assert key.statistics().in_use == 1, "the moment the test is about"
        waiter.kill()
        assert key.statistics().in_use == 0
        assert available(key) == {"requests": 100}


def test_shared_limits_nest_too(clock, courier):
    """A refusal by the whole, asked of the store, leaves the key's record as it was."""
    users = Limiter("users", requests="1/day burst 10", share="redis://nowhere", clock=clock)
    llm = Limiter("llm", requests="1/day burst 1", clock=clock)
    jobs = [gevent.spawn(users.inside(llm).try_permit) for _ in range(3)]
    for _ in range(10):
        gevent.sleep(0)
        courier.settle_down_in(0.2)
    answers = [bool(job.get(timeout=10)) for job in jobs]
    assert answers.count(True) == 1
    courier.settle_down()
    out = (courier.record["t:requests"] - clock.now() * 1e6) / (86_400 * 1e6)
    assert out == pytest.approx(1, abs=0.01)


def test_both_may_have_several_windows(clock):
    """A cost counts in every window of both, what was settled too, and the refusal names the one used up."""
    users = Limiter("users", requests=["60/min burst 5", "3/day burst 3"], clock=clock)
    llm = Limiter("llm", requests=["600/min burst 9", "100/day burst 20"], tokens="9/s burst 9", clock=clock)
    both = users.key("u", weight=2.0).inside(llm)
    with both.permit(tokens=4) as permit:
        assert permit.costs == {"requests": 1, "tokens": 4}
        permit.settle(tokens=2)
    seen = llm.statistics().windows
    assert seen == pytest.approx({"requests 600/min": 8, "requests 100/day": 19, "tokens 9/s": 7})
    assert [bool(both.try_permit()) for _ in range(6)] == [True] * 5 + [False]
    assert both.try_permit().window == "requests 6/day"
    with pytest.raises(ConnectionRefusedError), llm.permit():
        raise ConnectionRefusedError
    assert llm.statistics().windows["requests 100/day"] == pytest.approx(14)
