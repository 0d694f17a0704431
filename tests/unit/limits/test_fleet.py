"""A shared budget and its store, with every instant between them in the hands of the test."""

from __future__ import annotations

import random

import gevent
import pytest

from greenkit.errors import LimitTimeout
from greenkit.limits import Limiter
from greenkit.limits._protocol import MICRO
from greenkit.limits._queue import GreenParker
from greenkit.limits._reservations import Reservations
from greenkit.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def on_the_way(monkeypatch):
    """Give who is on the way: granted and woken, but not run yet, so that a kill may come first."""
    seen, ring = set(), GreenParker.wake

    def note(self):
        seen.add(self._greenlet)
        ring(self)

    monkeypatch.setattr(GreenParker, "wake", note)
    return seen


def out(courier, rate, name="requests"):
    """Return the units the store thinks are out."""
    now = courier.clock.now() * MICRO
    return (courier.record[f"t:{name}"] - now) / (rate * MICRO)


def play(seed, clock, courier, on_the_way):
    """Let waiters and tries come and die at random; return (passed, unused, kills by moment)."""
    rng = random.Random(seed)
    courier.record.clear()
    courier.served.clear()
    courier.under_way.clear()
    limit = Limiter("a", requests="1/day burst 30", concurrency=100, share="redis://nowhere", clock=clock)
    passed, kills = [], {"in line": 0, "asked for": 0, "on the way": 0}

    def wait():
        with limit.permit():
            passed.append(1)

    def attempt():
        permit = limit.try_permit()
        if permit:
            with permit:
                passed.append(1)

    jobs = []
    for _ in range(150):
        what = rng.random()
        if what < 0.3 and len(jobs) < 60:
            jobs.append(gevent.spawn(rng.choice([wait, wait, attempt])))
        elif what < 0.5:
            courier.send()
        elif what < 0.65:
            courier.deliver()
        elif what < 0.85:
            alive = [job for job in jobs if not job.ready() and job.started]
            if alive:
                victim = rng.choice(alive)
                moment = "on the way" if victim in on_the_way else "in line"
                if moment == "in line" and courier.under_way:
                    moment = "asked for"
                kills[moment] += 1
                victim.kill(block=False)
        else:
            gevent.sleep(0)
    gevent.killall(jobs, block=False)
    gevent.sleep(0)
    courier.settle_down()
    assert all(job.ready() for job in jobs)
    return limit, len(passed), kills


def test_every_permit_is_used_or_still_there(clock, courier, on_the_way):
    """Killed in the queue, while the store was asked, or on the way: not one is lost and none is made."""
    total = {}
    for seed in range(150):
        on_the_way.clear()
        limit, passed, kills = play(seed, clock, courier, on_the_way)
        total = {moment: total.get(moment, 0) + many for moment, many in kills.items()}
        if courier.record:
            assert out(courier, 86_400) == pytest.approx(passed, abs=0.01), seed
            assert [held for name, held in courier.record.items() if name.startswith("h:")] == [0.0]
        assert limit.statistics().in_use == 0
        assert limit.statistics().granted == passed
    assert min(total.values()) > 60, total


@pytest.mark.parametrize("forgetful", ["put_back", "empty"])
def test_the_count_sees_a_hand_that_forgets(clock, courier, on_the_way, monkeypatch, forgetful):
    """A twin that drops what a killed waiter had, or what nobody uses, is caught."""
    twins = {"put_back": lambda self, costs: None, "empty": lambda self: (0.0,)}
    monkeypatch.setattr(Reservations, forgetful, twins[forgetful])
    with pytest.raises(AssertionError):
        test_every_permit_is_used_or_still_there(clock, courier, on_the_way)


def start(limit, many, **options):
    passed = []

    def one(number):
        with limit.permit(**options):
            passed.append(number)

    jobs = [gevent.spawn(one, number) for number in range(many)]
    gevent.sleep(0)
    return jobs, passed


def look(limit):
    limit._budget._look_soon()
    for _ in range(50):  # on a busy machine the waking takes several turns
        gevent.sleep(0)


def test_one_request_carries_everybody_and_books_ahead(clock, courier):
    """A hundred waiters, one request; a quarter of a second is booked, the rest named later."""
    limit = Limiter("a", requests="100/s burst 10", share="redis://nowhere", clock=clock)
    jobs, passed = start(limit, 100)
    courier.send()
    [(_, request)] = courier.under_way
    assert len(request.items) == 100
    courier.deliver()
    look(limit)
    assert passed == list(range(10))
    assert limit._budget.state.reserved.permits == 25
    clock.advance(0.13)
    look(limit)
    assert passed == list(range(23))
    courier.send()
    assert len(courier.under_way[0][1].items) == 65, "the booked are not asked for again"
    gevent.killall(jobs)


def requests_for(clock, courier, *, seconds, processes, crowd):
    """Have crowds that always come back share 200/s; return (permits, requests, permits of each process)."""
    limits = [
        Limiter("a", requests="200/s burst 1", share=f"redis://{number}", clock=clock)
        for number in range(processes)
    ]
    passed = [0] * processes
    asked = 0

    def one(number):
        while True:
            with limits[number].permit():
                passed[number] += 1

    jobs = [gevent.spawn(one, number) for number in range(processes) for _ in range(crowd)]
    for _ in range(round(seconds / 0.005)):
        gevent.sleep(0)
        courier.send()
        asked += len(courier.under_way)
        courier.deliver()
        for limit in limits:
            look(limit)
        clock.advance(0.005)
    gevent.killall(jobs)
    return sum(passed), asked, passed


def test_nobody_is_looked_at_again_and_again_while_they_wait(clock, courier):
    """Asked nothing, the backend owes no answer: the timer of the head is not due before the head is."""
    limit = Limiter("a", requests="10/s burst 1", share="redis://nowhere", clock=clock)
    jobs, passed = start(limit, 5)
    courier.send()
    courier.deliver()
    look(limit)
    assert passed == [0]
    assert limit._budget._head_at == pytest.approx(clock.now() + 0.1)
    gevent.killall(jobs)


def test_few_requests_serve_a_crowd(clock, courier):
    """A request carries nearly the whole of a crowd, and no slot is lost by waiting for it to gather."""
    permits, asked, each = requests_for(clock, courier, seconds=5, processes=8, crowd=12)
    assert permits >= 0.99 * 1000
    assert asked < 0.12 * permits, (asked, permits)
    assert min(each) > 0.8 * max(each), each


def test_a_process_alone_loses_no_slot(clock, courier):
    """With nobody else's places in between it asks while some of its own are left."""
    permits, asked, _ = requests_for(clock, courier, seconds=5, processes=1, crowd=12)
    assert permits >= 0.99 * 1000
    assert asked < 0.15 * permits, (asked, permits)


def test_a_kill_moves_those_behind_up(clock, courier):
    """The slot of the dead is the next one's; nothing is asked for twice."""
    limit = Limiter("a", requests="10/s burst 1", share="redis://nowhere", clock=clock)
    jobs, passed = start(limit, 3)
    courier.send()
    courier.deliver()
    look(limit)
    assert passed == [0]
    jobs[1].kill()
    clock.advance(0.1)
    look(limit)
    assert passed == [0, 2]
    courier.settle_down()
    assert out(courier, 0.1) < 1


def test_a_pause_takes_back_what_was_booked(clock, courier):
    """Nobody goes during it, and no heap of old bookings goes after it."""
    limit = Limiter("a", requests="100/s burst 1", share="redis://nowhere", clock=clock)
    jobs, passed = start(limit, 30)
    courier.send()
    courier.deliver()
    look(limit)
    limit.pause(10)
    courier.send()
    courier.deliver()
    clock.advance(5)
    look(limit)
    assert passed == [0]
    clock.advance(5)
    courier.send()
    courier.deliver()
    look(limit)
    assert passed == [0, 1]
    gevent.killall(jobs)


def test_strict_uses_no_slot_that_comes_late(clock, courier):
    """A hub that stood still for a second asks again instead of letting all go at once."""
    for strict, many in ((False, 25), (True, 0)):
        courier.record.clear()
        limit = Limiter("a", requests="100/s burst 2", strict=strict, share="redis://nowhere", clock=clock)
        jobs, passed = start(limit, 60)
        courier.send()
        courier.deliver()
        look(limit)
        first = len(passed)
        clock.advance(1.0)
        look(limit)
        assert len(passed) - first == many
        gevent.killall(jobs)
        courier.settle_down()
        courier.served.clear()


def test_silence_is_an_answer(clock, courier):
    """A request that hangs for 0.3 s is as good as a refused connection, whatever its client does.

    It is seen twice: a process that was kept busy for so long first gets to hear the answer.
    """
    limit = Limiter("a", requests="1000/s burst 1", share="redis://nowhere", clock=clock)
    jobs, passed = start(limit, 3)
    courier.send()
    clock.advance(0.2)
    look(limit)
    assert limit.statistics().backend == "shared"
    clock.advance(0.05)
    look(limit)
    assert limit.statistics().backend == "shared"
    clock.advance(0.06)
    look(limit)
    assert limit.statistics().backend == "local"
    clock.advance(1.0)
    look(limit)
    assert passed
    courier.deliver()  # late, and of before
    assert limit.statistics().backend == "local"
    courier.send()
    courier.deliver()
    assert limit.statistics().backend == "shared"
    assert limit.statistics().available["requests"] < 1, "it came back without a burst"
    gevent.killall(jobs)


def test_a_refund_is_not_told_twice_and_a_lost_one_is_lost(clock, courier):
    """What was under way when the backend went away is forgotten: rather too little than too much."""
    limit = Limiter("a", tokens="1/day burst 100", share="redis://nowhere", clock=clock)
    jobs, passed = start(limit, 1, tokens=50)
    courier.settle_down()
    assert passed == [0]
    permit = limit.permit(tokens=40)
    entering = gevent.spawn(permit.__enter__)
    gevent.sleep(0)
    courier.settle_down()
    entering.get(timeout=5)
    permit.settle(tokens=10)
    clock.advance(0.06)
    courier.send()
    courier.fail()
    assert limit.statistics().backend == "local"
    clock.advance(2)
    courier.send()
    courier.deliver()
    assert out(courier, 86_400, "tokens") == pytest.approx(100, abs=1), "it begins again without a burst"
    gevent.joinall(jobs)


def test_a_wait_known_to_be_hopeless_is_told_when_the_store_has_said_so(clock, courier):
    """The first answer decides, not the end of the time-out."""
    limit = Limiter("a", requests="1/day burst 1", share="redis://nowhere", clock=clock)
    jobs, _ = start(limit, 1)
    courier.settle_down()

    def wait():
        with pytest.raises(LimitTimeout), limit.permit(timeout=3600.0):
            pass

    waiter = gevent.spawn(wait)
    gevent.sleep(0)
    courier.send()
    courier.deliver()
    waiter.get(timeout=5)
    gevent.joinall(jobs)


def test_a_key_met_while_the_backend_is_away_is_not_asked_for(clock, courier):
    """It goes by this process's share at once, without a burst: others may have used that."""
    courier.away = True
    limit = Limiter("a", requests="3/min burst 3", share="redis://nowhere", clock=clock)
    assert not limit.key("ann").try_permit()
    clock.advance(20)
    assert [bool(limit.key("ann").try_permit()) for _ in range(2)] == [True, False]
    assert limit.key("ann").statistics().backend == "local"
    clock.advance(2)
    courier.send()
    assert len(courier.under_way) == 1, "the key asks whether it is back, and nobody else"
    courier.deliver()
    assert limit.key("ann").statistics().backend == "shared"
