"""Each test is named after a way `gevent.pool` loses work, and states what ours does instead."""

from __future__ import annotations

import itertools
from contextvars import ContextVar

import gevent
import pytest
from gevent.event import Event

from greenkit.pool import GreenPool, Killed


class Work:
    """Count what runs; an item takes `turns` turns of the loop, some of them a few more."""

    def __init__(self, turns=3, fails=()):
        self.turns, self.fails = turns, set(fails)
        self.begun, self.ended, self.alive, self.peak = [], [], 0, 0

    def __call__(self, item):
        self.begun.append(item)
        self.alive += 1
        self.peak = max(self.peak, self.alive)
        try:
            for _ in range(self.turns + item % 5):
                gevent.sleep(0)
            if item in self.fails:
                raise ValueError(item)
        finally:
            self.alive -= 1
        self.ended.append(item)
        return item * 10


def settle_down():
    for _ in range(20):
        gevent.sleep(0)


def test_map_with_one_failing_item_stops_the_others():
    """The first error ends the run: what has not begun never begins."""
    work = Work(fails={2})
    with GreenPool(4) as pool, pytest.raises(ValueError, match="2"):
        pool.map(work, range(1000))
    settle_down()
    assert len(work.begun) < 50
    assert work.alive == 0


def test_a_delivered_error_is_not_printed(capsys):
    """An error the caller got leaves nothing on standard error."""
    with GreenPool(4) as pool:
        with pytest.raises(ValueError):
            pool.map(Work(fails={0}), range(3))
        with pytest.raises(ValueError):
            pool.spawn(Work(fails={7}), 7).get()
        assert [out.ok for _, out in pool.stream(Work(fails={0}), [0], on_error="return")] == [False]
    assert capsys.readouterr().err == ""


def test_an_error_nobody_asked_for_is_printed(capsys):
    """A spawned child whose error nobody reads says so, as a plain greenlet would."""
    with GreenPool(1) as pool:
        pool.spawn(Work(fails={7}), 7)
    assert "ValueError: 7" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["stream", "imap"])
def test_imap_on_an_endless_source_pulls_no_more_than_it_may(way):
    """At most size + ahead items are alive beyond those the caller has taken."""
    pulled = itertools.count()
    with GreenPool(5) as pool:
        taken = 0
        for _ in getattr(pool, way)(Work(), pulled, ahead=7):
            taken += 1
            settle_down()  # a slow consumer
            if taken == 20:
                break
        assert next(pulled) <= taken + 5 + 7


@pytest.mark.parametrize("way", ["stream", "imap"])
def test_leaving_the_loop_early_ends_feeder_and_children(way):
    """After `break` nothing more is read, begun, or alive."""
    pulled, work = itertools.count(), Work()
    with GreenPool(5) as pool:
        for _ in getattr(pool, way)(work, pulled):
            assert work.alive > 0, "the moment under test needs running children"
            break
        begun = len(work.begun)
        assert work.alive == 0
        settle_down()
        assert len(work.begun) == begun
        assert pool.statistics().children == 0
        assert pool.statistics().killed > 0


def test_a_kill_that_strikes_during_break_is_not_lost(recwarn):
    """The owner killed while its children are being joined still dies of it."""
    reached = []

    def slow_to_die(item):
        try:
            gevent.sleep(30 if item else 0)
        finally:
            for _ in range(10):
                gevent.sleep(0)

    def owner(pool):
        for _ in pool.stream(slow_to_die, range(3)):
            break
        reached.append("after break")
        gevent.sleep(0)
        reached.append("survived")

    pool = GreenPool(3)
    caller = gevent.spawn(owner, pool)
    while not pool.statistics().succeeded:
        gevent.sleep(0)
    gevent.sleep(0)
    gevent.sleep(0)
    assert not reached, "the kill comes too late"
    caller.kill()
    assert reached == ["after break"]
    assert isinstance(caller.value, gevent.GreenletExit)
    assert pool.statistics().children == 0


def test_ordered_imap_with_a_slow_first_item_piles_up_no_more_than_ahead():
    """What ended before its turn counts against `ahead`."""
    gate, work = Event(), Work()

    def first_is_slow(item):
        if item == 0:
            gate.wait(10)
        return work(item)

    with GreenPool(4) as pool:
        results = pool.imap(first_is_slow, range(1000), ahead=6)
        opener = gevent.spawn(lambda: (settle_down(), settle_down(), gate.set()))
        assert next(results) == 0
        assert len(work.begun) <= 4 + 6 + 1
        assert opener.ready()
        assert list(itertools.islice(results, 3)) == [10, 20, 30]


@pytest.mark.parametrize("how", ["kill", "timeout", "error"])
def test_a_caller_that_dies_takes_its_children_along(how):
    """Kill, gevent.Timeout and an exception in the owner leave no child and start none."""
    work = Work(turns=100)
    pool = GreenPool(5)

    def owner():
        with pool:
            if how == "timeout":
                timer = gevent.Timeout(0.005)
                timer.start()
            for _ in pool.stream(work, itertools.count(), on_error="return"):
                if how == "error":
                    raise KeyError(how)

    caller = gevent.Greenlet(owner)
    caller.start()
    if how == "kill":
        settle_down()
        caller.kill()
    with pytest.raises((KeyError, gevent.Timeout)) if how != "kill" else gevent.Timeout(10):
        (caller.get if how != "kill" else caller.join)()
    begun = len(work.begun)
    assert begun > 0
    settle_down()
    assert (work.alive, len(work.begun), pool.statistics().children) == (0, begun, 0)
    assert pool.statistics().in_use == 0


def test_kill_during_a_run_ends_the_reader_with_an_error_not_with_values():
    """pool.kill() raises in whoever reads a run; no GreenletExit comes as a result."""
    pool, seen = GreenPool(3), []

    def read():
        for item, out in pool.stream(Work(turns=50), range(100), on_error="return"):
            seen.append((item, out))

    reader = gevent.spawn(read)
    settle_down()
    pool.kill()
    with pytest.raises(Exception, match="was ended while its results"):
        reader.get(timeout=10)
    assert seen
    assert all(isinstance(out.error, Killed) for _, out in seen)


def test_a_killed_worker_is_an_outcome_with_an_error():
    """A child that was killed, even before it ran, is never a value."""
    with GreenPool(2) as pool:
        running, unborn = pool.spawn(gevent.sleep, 30), pool.spawn(gevent.sleep, 30)
        unborn.kill(block=False)
        gevent.sleep(0)
        running.kill()
        for child in (running, unborn):
            with pytest.raises(Killed):
                child.get(timeout=1)
            assert not child.outcome.ok
        assert unborn.outcome.started is None
        assert running.outcome.started is not None
    assert (pool.statistics().in_use, pool.statistics().killed) == (0, 2)


def test_a_killed_worker_makes_map_raise_not_return_it():
    """map() raises Killed where gevent returns a GreenletExit object."""
    with GreenPool(2) as pool:

        def suicide(item):
            if item == 1:
                gevent.getcurrent().kill()
            return item

        with pytest.raises(Killed):
            pool.map(suicide, range(3))
        outs = pool.map(suicide, range(3), on_error="return")
        assert [out.ok for out in outs] == [True, False, True]


def test_spawn_inside_a_full_pool_runs_on_the_callers_slot():
    """A child of a full pool that spawns and waits is not waiting for itself."""
    work = Work()

    def outer(item):
        return pool.spawn(work, item).get()

    with gevent.Timeout(10), GreenPool(3) as pool:
        assert pool.map(outer, range(30)) == [item * 10 for item in range(30)]
        assert work.peak <= 3


def test_map_inside_a_full_pool_runs_on_the_callers_slot():
    """Runs nested in children of the same pool end too."""
    with gevent.Timeout(10), GreenPool(2) as pool:
        assert pool.map(lambda n: sum(pool.imap(Work(), range(n))), [3] * 10) == [30] * 10


@pytest.mark.parametrize("inner_way", ["spawn", "map"])
def test_pools_that_are_full_of_each_other_go_on(inner_way):
    """A child of one pool asks a second, whose child asks the first: both full, neither waits for itself."""
    work = Work()

    def third(item):
        return first.spawn(work, item).get()

    def outer(item):
        return second.spawn(third, item).get() if inner_way == "spawn" else second.map(third, [item])[0]

    with gevent.Timeout(10), GreenPool(2) as first, GreenPool(1) as second:
        assert first.map(outer, range(20)) == [item * 10 for item in range(20)]
        assert work.peak <= 2
        for pool in (first, second):
            assert pool.statistics().children == pool.statistics().in_use == 0


def test_the_item_of_an_error_is_known():
    """Every outcome comes with its item."""
    with GreenPool(4) as pool:
        failed = {
            item for item, out in pool.stream(Work(fails={3, 5}), range(9), on_error="return") if not out.ok
        }
    assert failed == {3, 5}


def test_waiters_for_the_limit_hold_no_greenlet():
    """While the gate is shut one item waits for it, and no child exists."""
    opened = Event()

    class Shut:
        waited = 0.0
        waiting = 0

        def permit(self, *, timeout=None, **costs):
            return self

        def __enter__(self):
            self.waiting += 1
            opened.wait(10)
            self.waiting -= 1
            return self

        def __exit__(self, *error):
            return None

        def settle(self, **costs):
            raise AssertionError(costs)

    gate, work = Shut(), Work()
    with GreenPool(50, limiter=gate) as pool:
        results = gevent.spawn(pool.map, work, range(100))
        settle_down()
        assert (gate.waiting, pool.statistics().children) == (1, 0)
        opened.set()
        assert len(results.get(timeout=10)) == 100


variable = ContextVar("variable", default="none")


def test_context_variables_are_inherited():
    """A child sees the context its owner had, and does not write into it."""

    def look(item):
        seen = variable.get()
        variable.set(f"child {item}")
        return seen

    token = variable.set("owner")
    try:
        with GreenPool(2) as pool:
            assert pool.map(look, range(3)) == ["owner"] * 3
            assert pool.spawn(look, 1).get() == "owner"
        assert variable.get() == "owner"
    finally:
        variable.reset(token)
