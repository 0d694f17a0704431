"""Work with a limiter of its own each, and work that is tried again."""

from __future__ import annotations

import gc
import weakref

import gevent
import pytest
from gevent.event import Event

from greenkit.limits import Limiter
from greenkit.pool import GreenPool, Killed
from greenkit.pool._pool import is_overload
from greenkit.testing import FakeClock, kill_at_every_switch


class StatusError(Exception):
    def __init__(self, status):
        super().__init__(status)
        self.status_code, self.headers = status, {}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Have a backoff take one turn of the loop, and a 429 pause nobody for long."""
    monkeypatch.setattr("greenkit.limits._permit.sleep", lambda seconds: gevent.sleep(0))
    monkeypatch.setattr("greenkit.limits._base._DEFAULT_PAUSE", 0.0)


# -- a limiter for each item --------------------------------------------------------------------------------


def test_a_fast_host_does_not_wait_behind_a_slow_one():
    """All of the fast host's rows are done while the slow one, which nobody lets through, has its first."""
    hosts = Limiter("hosts", requests="1000/s burst 1000")
    hosts.key("slow").pause(3600.0)
    rows = [("slow", n) for n in range(20)] + [("fast", n) for n in range(200)]
    done = []
    with GreenPool(5, limiter=lambda row: hosts.key(row[0])) as pool:
        for row, _ in pool.stream(lambda row: row, rows):
            done.append(row)
            if len(done) == 200:
                assert pool.statistics().in_use == 0, "who waits for a turn has no slot"
                hosts.key("slow").resume()
    assert done[:200] == rows[20:]
    assert done[200:] == rows[:20]


def test_no_more_than_the_slots_run_at_once():
    """The turn of a key is not yet a slot."""
    hosts = Limiter("hosts", requests="1000/s burst 1000", concurrency=3)
    running, peak, per_host = {"a": 0, "b": 0}, [], []

    def work(host):
        running[host] += 1
        peak.append(sum(running.values()))
        per_host.append(max(running.values()))
        gevent.sleep(0)
        running[host] -= 1

    with GreenPool(4, limiter=hosts.key) as pool:
        pool.map(work, ["a", "b"] * 30)
    assert max(peak) == 4
    assert max(per_host) == 3


@pytest.mark.parametrize("way", ["spawn", "try_spawn"])
def test_single_pieces_of_work_have_their_own_limiter_too(way):
    """The function sees the arguments of the work."""
    hosts = Limiter("hosts", requests="1/day burst 1")
    with GreenPool(2, limiter=lambda host, *, page: hosts.key(f"{host}")) as pool:
        child = getattr(pool, way)(lambda host, *, page: page, "a", page=7)
        assert child.get(timeout=10) == 7
        assert pool.try_spawn(lambda host, *, page: page, "a", page=8) is None
    assert hosts.statistics().granted == 1


def test_an_item_whose_limiter_cannot_be_told_fails_alone():
    """The function raises for one item; the others are done, and no slot is gone."""
    hosts = Limiter("hosts", requests="1000/s burst 100")

    def of(row):
        if row == 2:
            raise LookupError(row)
        return hosts

    with GreenPool(2, limiter=of) as pool:
        outcomes = pool.map(lambda row: row, range(5), on_error="return")
        assert [out.value for out in outcomes] == [0, 1, None, 3, 4]
        assert isinstance(outcomes[2].error, LookupError)
        assert pool.statistics().in_use == 0


def test_who_is_killed_while_it_waits_for_a_slot_has_spent_nothing():
    """Its key's turn had come; the permit goes back whole, as nothing was sent."""
    hosts = Limiter("hosts", requests="1/day burst 5", concurrency=5)
    gate = Event()
    with pytest.raises(KeyError), GreenPool(1, limiter=hosts.key) as pool:  # noqa: PT012
        pool.spawn(lambda _: gate.wait(), "busy")
        run = pool.stream(lambda _: gate.wait(), ["a"])
        reader = gevent.spawn(next, run, None)
        while not hosts.key("a").statistics().in_use:
            gevent.sleep(0)
        assert pool.statistics().waiting == 1, "the moment the test is about"
        raise KeyError
    reader.kill()
    seen = hosts.key("a").statistics()
    assert (seen.granted, seen.in_use, seen.available) == (0, 0, {"requests": 5})


class Batch:
    """A run over items of two keys, of which each lets one be out at once."""

    def __init__(self):
        self.hosts = Limiter("hosts", requests="10000/s burst 1000", concurrency=1)
        self.pool, self.ran = GreenPool(2, limiter=self.limiter, attempts=2), []
        self.failed, self.owner = set(), None

    def limiter(self, item):
        return self.hosts.key(item % 2)

    def work(self, item):
        self.ran.append(item)
        gevent.sleep(0)
        if item == 3 and item not in self.failed:
            self.failed.add(item)
            raise ConnectionResetError
        return item

    def own(self):
        self.owner = gevent.getcurrent()
        with self.pool:
            for _ in self.pool.stream(self.work, range(6), on_error="return"):
                pass

    def name(self, greenlet):
        if greenlet in self.pool._workers.children:
            return "child"
        return "the call" if greenlet is self.owner else None

    def check(self):
        seen = self.pool.statistics()
        held = [self.hosts.key(key).statistics().in_use for key in (0, 1)]
        assert (seen.in_use, seen.waiting, seen.children, held) == (0, 0, 0, [0, 0])
        assert seen.started == seen.succeeded + seen.failed + seen.killed
        assert self.hosts.statistics().granted == len(self.ran), "a permit of work that never ran is charged"


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
def test_killed_at_any_switch_no_slot_and_no_permit_is_lost(error):
    """Owner and children: waiting for the key, for the slot, at work, and between two attempts."""
    report = kill_at_every_switch(
        lambda batch: batch.own(), Batch.check, fresh=Batch, error=error,
        whom=lambda who, batch: batch.name(who),
    )  # fmt: skip
    victims = dict(report.victims)
    assert min(victims["the call"], victims["child"]) >= 10, victims


# -- attempts -----------------------------------------------------------------------------------------------


class Flaky:
    """Fail each item so many times, then return it."""

    def __init__(self, times, error=lambda: StatusError(429)):
        self.times, self.error, self.seen = times, error, {}

    def __call__(self, item):
        self.seen[item] = self.seen.get(item, 0) + 1
        if self.seen[item] <= self.times:
            raise self.error()
        return item


@pytest.mark.parametrize("way", ["map", "stream", "spawn"])
def test_a_429_is_no_lost_row(way):
    """Twice refused and then done: every attempt paid its own permit, and the outcome tells of three."""
    llm = Limiter("llm", requests="10000/s burst 1000")
    work = Flaky(2)
    with GreenPool(3, limiter=llm, attempts=5) as pool:
        if way == "map":
            assert pool.map(work, range(10)) == list(range(10))
        elif way == "stream":
            outcomes = [out for _, out in pool.stream(work, range(10))]
            assert {out.attempts for out in outcomes} == {3}
        else:
            assert [pool.spawn(work, n).get(timeout=10) for n in range(10)] == list(range(10))
        assert pool.statistics().in_use == 0
    assert llm.statistics().granted == 30


def test_the_last_attempt_raises_what_it_failed_with():
    """Three attempts, and no fourth."""
    llm = Limiter("llm", requests="10000/s burst 1000")
    work = Flaky(99)
    with GreenPool(1, limiter=llm, attempts=3) as pool:
        (out,) = pool.map(work, [1], on_error="return")
    assert isinstance(out.error, StatusError)
    assert (out.attempts, work.seen[1]) == (3, 3)


@pytest.mark.parametrize("error", [lambda: ValueError("mine"), lambda: StatusError(400)])
def test_what_is_not_worth_another_attempt_gets_none(error):
    """As everywhere."""
    work = Flaky(99, error)
    with GreenPool(1, limiter=Limiter("llm", requests="1000/s burst 100"), attempts=3) as pool:
        (out,) = pool.map(work, [1], on_error="return")
    assert (out.attempts, work.seen[1]) == (1, 1)


def test_the_slot_is_kept_between_attempts():
    """Who is tried again is not overtaken by work that has not begun."""
    order = []
    flaky = Flaky(1)

    def work(item):
        order.append(item)
        return flaky(item)

    with GreenPool(1, limiter=Limiter("llm", requests="10000/s burst 1000"), attempts=2) as pool:
        pool.map(work, range(3))
    assert order == [0, 0, 1, 1, 2, 2]


def test_killed_between_two_attempts_it_is_killed_once_and_for_all():
    """No slot is held, and nothing is tried again."""
    llm = Limiter("llm", requests="1/day burst 1", concurrency=5)
    work = Flaky(99, ConnectionResetError)
    with GreenPool(1, limiter=llm, attempts=5) as pool:
        child = pool.spawn(work, 1)
        while not llm.statistics().waiting:
            gevent.sleep(0)
        child.kill()
        pool.join()
        assert isinstance(child.outcome.error, Killed)
        assert (pool.statistics().in_use, llm.statistics().in_use, llm.statistics().waiting) == (0, 0, 0)
    assert work.seen == {1: 1}


def test_a_refusal_that_is_tried_again_narrows_the_pool():
    """`adaptive` hears of it, though the outcome is a success."""
    llm = Limiter("llm", requests="10000/s burst 1000")
    with GreenPool(40, limiter=llm, attempts=3, adaptive=is_overload) as pool:
        before = pool.statistics().size
        pool.map(Flaky(1), range(1))
        assert pool.statistics().size < before


def test_what_was_tried_again_leaves_no_cycle():
    """The errors of failed attempts hold the work's locals; they go when the outcome does."""

    class Thing:
        pass

    things = []

    def work(item):
        thing = Thing()
        things.append(weakref.ref(thing))
        return flaky(item)

    flaky = Flaky(2)
    gc.collect()
    gc.disable()
    try:
        with GreenPool(1, limiter=Limiter("llm", requests="10000/s burst 1000"), attempts=4) as pool:
            pool.map(work, [1])
        gevent.sleep(0)
        assert [thing() for thing in things] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True, None])
def test_attempts_are_a_number(attempts):
    """Said at once."""
    with pytest.raises(ValueError, match="attempts"):
        GreenPool(1, limiter=Limiter("llm", requests="1/s"), attempts=attempts)


def test_attempts_need_a_limiter_that_has_them():
    """Without one nothing would hold the retries back."""
    with pytest.raises(TypeError, match="limiter="):
        GreenPool(1, attempts=3)

    class Gate:
        def permit(self, **_):
            raise AssertionError

    with pytest.raises(TypeError, match="Limiter"):
        GreenPool(1, limiter=Gate(), attempts=3)


def test_a_clock_of_its_own_is_the_limiters_business():
    """A key inside the whole is a gate as well, and is tried again too."""
    clock = FakeClock(1000)
    llm = Limiter("llm", requests="100/s burst 100", clock=clock)
    with GreenPool(2, limiter=lambda row: llm.key(row % 2).inside(llm), attempts=3) as pool:
        assert pool.map(Flaky(1, ConnectionResetError), range(4)) == list(range(4))
    assert llm.statistics().granted == 2 * 8
