from __future__ import annotations

import random

import gevent
import pytest

from greenkit import facts
from greenkit.errors import PoolClosedError, WaitTimeout
from greenkit.pool import GreenPool, Killed
from greenkit.testing import assert_no_switch


class Gate:
    """Let everybody in, after some turns of the loop; keep account of every permit."""

    def __init__(self, turns=0, refuse=False):
        self.turns, self.refuse = turns, refuse
        self.entered = self.left = 0
        self.costs, self.settled, self.errors = [], [], []

    def permit(self, *, timeout=None, **costs):
        return Pass(self, timeout, costs)


class Pass:
    waited = 0.25

    def __init__(self, gate, timeout, costs):
        self.gate, self.timeout, self.costs = gate, timeout, costs

    def __enter__(self):
        if self.gate.refuse and self.timeout == 0:
            raise WaitTimeout("not now")
        for _ in range(self.gate.turns):
            gevent.sleep(0)
        self.gate.entered += 1
        self.gate.costs.append(self.costs)
        return self

    def __exit__(self, kind, error, trace):
        self.gate.left += 1
        self.gate.errors.append(error)

    def settle(self, **costs):
        self.gate.settled.append(costs)


def test_children_pay_what_cost_says_and_settle_what_they_used():
    """A number counts tokens, a mapping names its dimensions."""
    gate = Gate()
    with GreenPool(3, limiter=gate, cost=len, settle=lambda text: {"tokens": len(text), "output": 1}) as pool:
        assert pool.map(str.upper, ["a", "bb"]) == ["A", "BB"]
    assert gate.costs == [{"tokens": 1}, {"tokens": 2}]
    assert gate.settled == [{"tokens": 1, "output": 1}, {"tokens": 2, "output": 1}]
    assert (gate.entered, gate.left) == (2, 2)


def test_a_permit_learns_how_its_work_failed():
    """The gate gets the error, so that a 429 can pause everybody."""
    gate = Gate()

    def fail(item):
        raise KeyError(item)

    with GreenPool(3, limiter=gate) as pool:
        [(_, out)] = pool.stream(fail, [1], on_error="return")
    assert gate.errors == [out.error]
    assert out.waited == 0.25
    with pytest.raises(KeyError):
        out.get()


def test_a_cost_that_cannot_be_told_is_that_items_error():
    """An exception of cost() is the outcome of its item; the others go on."""
    gate = Gate()
    with GreenPool(3, limiter=gate, cost=len) as pool:
        found = dict(pool.stream(str, ["a", 5, "c"], on_error="return"))
    assert isinstance(found[5].error, TypeError)
    assert found[5].started is None
    assert found["a"].ok
    assert found["c"].ok
    assert pool.statistics().in_use == 0


def test_no_slot_and_no_permit_is_lost_whatever_is_killed():
    """Children, owners and spawners die at random moments; all is given back, every time."""
    killed = sum(kill_at_random(seed) for seed in range(100))
    assert killed > 50, "hardly anything was killed: the moments under test never came"


def kill_at_random(seed):
    """Return how many children were killed; fail when anything is lost."""
    rng = random.Random(seed)
    gate = Gate(turns=rng.randrange(3))
    pool = GreenPool(rng.randint(1, 4), limiter=gate, settle=lambda value: 1)

    def work(item):
        for _ in range(item % 4):
            gevent.sleep(0)
        return item

    def read():
        for _ in pool.stream(work, range(40), on_error="return", ahead=rng.randrange(3)):
            gevent.sleep(0)

    others = [gevent.spawn(read)] + [gevent.spawn(pool.spawn, work, n) for n in range(8)]
    for _ in range(rng.randint(1, 25)):
        gevent.sleep(0)
        if pool._workers.children and rng.random() < 0.4:
            rng.choice(sorted(pool._workers.children, key=lambda one: one.minimal_ident)).kill(block=False)
        if rng.random() < 0.1:
            rng.choice(others).kill(block=False)
    gevent.killall(others[: rng.randrange(len(others))], timeout=10)
    gevent.joinall(others, timeout=10)
    pool.join(10)
    seen = pool.statistics()
    assert (seen.in_use, seen.waiting, seen.children) == (0, 0, 0)
    assert gate.entered == gate.left == seen.started
    assert seen.started == seen.succeeded + seen.failed + seen.killed
    return seen.killed


def test_the_block_waits_for_what_it_spawned():
    """A normal end joins."""
    done = []
    with GreenPool(2) as pool:
        for n in range(5):
            pool.spawn(lambda n=n: (gevent.sleep(0), done.append(n)))
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_an_unread_run_does_not_outlive_the_block():
    """An iterator still held when the block ends is over; reading on says so."""
    with GreenPool(2) as pool:
        results = pool.imap(lambda n: n, range(100))
        assert next(results) == 0
    assert pool.statistics().children == 0
    with pytest.raises((PoolClosedError, Killed)):
        list(results)


def test_a_closed_pool_takes_no_work():
    """After its block every door says PoolClosedError."""
    with GreenPool(2) as pool:
        pass
    for attempt in (lambda: pool.spawn(print), lambda: pool.try_spawn(print), lambda: pool.map(print, [1])):
        with pytest.raises(PoolClosedError, match="closed"):
            attempt()


def test_children_may_start_more_while_their_pool_ends():
    """Work that is under way when the block ends may still spawn; nobody else may."""
    with GreenPool(2) as pool:

        def outer():
            while not pool._workers.closed:
                gevent.sleep(0)
            return pool.spawn(int, "1").get() + pool.try_spawn(int, "2").get()

        child = pool.spawn(outer)
    assert child.outcome.value == 3


def test_a_spawner_that_waited_while_the_pool_closed_is_told():
    """Who stood in line when the block ended gets PoolClosedError, and nothing is held."""
    with GreenPool(1) as pool:
        pool.spawn(gevent.sleep, 0)
        late = gevent.spawn(pool.spawn, gevent.sleep, 0)
        gevent.sleep(0)
        assert pool.statistics().waiting == 1, "the moment under test never came"
        late.rawlink(lambda _: None)
    with pytest.raises(PoolClosedError):
        late.get(timeout=1)
    assert pool.statistics().in_use == 0


def test_try_spawn_answers_at_once():
    """No slot, or no permit now: None, without a switch and without a slot lost."""
    pool = GreenPool(1, limiter=Gate(refuse=True))
    with assert_no_switch():
        assert pool.try_spawn(gevent.sleep, 0) is None
    assert pool.statistics().in_use == 0
    pool = GreenPool(1)
    child = pool.try_spawn(lambda: 5)
    with assert_no_switch():
        assert pool.try_spawn(gevent.sleep, 0) is None
    assert child.get() == 5


def test_on_error_skip_leaves_the_failed_out():
    """Skip yields only what succeeded."""
    with GreenPool(2) as pool:
        assert pool.map(lambda n: 1 // n, [1, 0, 1], on_error="skip") == [1, 1]
        assert list(pool.imap(lambda n: 1 // n, [1, 0, 1], on_error="skip")) == [1, 1]
        assert len(list(pool.stream(lambda n: 1 // n, [1, 0, 1], on_error="skip"))) == 2
        with pytest.raises(ValueError, match="on_error"):
            pool.map(print, [], on_error="ignore")


@pytest.mark.parametrize("way", ["stream", "imap", "map"])
def test_an_error_of_the_source_is_raised_after_what_it_gave(way):
    """Items before the error are done; the error comes whatever on_error says."""

    def source():
        yield 1
        yield 2
        raise OSError("source broke")

    seen = []
    with GreenPool(2) as pool, pytest.raises(OSError, match="source broke"):
        list(getattr(pool, way)(seen.append, source(), on_error="return"))
    assert seen == [1, 2]


@pytest.mark.parametrize("way", ["map", "imap", "stream"])
def test_a_timeout_of_the_source_is_no_end_of_it(way, capsys):
    """A source struck by a time-out of its own raises it: the run does not look complete."""

    def source():
        yield 1
        raise gevent.Timeout(1)

    with GreenPool(2) as pool, pytest.raises(gevent.Timeout):
        list(getattr(pool, way)(str, source()))
    assert capsys.readouterr().err == ""


def test_a_timeout_while_a_cost_is_told_is_no_end_of_the_source():
    """A time-out that strikes the feeder in `cost` is raised; slot and permit are back."""

    def cost(item):
        if item == 3:
            raise gevent.Timeout(1)
        return 1

    gate = Gate()
    with GreenPool(2, limiter=gate, cost=cost) as pool, pytest.raises(gevent.Timeout):
        pool.map(str, range(6))
    assert (pool.statistics().in_use, gate.entered) == (0, gate.left)


def test_progress_is_told_of_every_item():
    """A progress without total gets the length; one update per item."""

    class Bar:
        total = None
        n = 0

        def update(self, n=1):
            self.n += n

    bar = Bar()
    with GreenPool(2) as pool:
        pool.map(str, [1, 2, 3], progress=bar)
    assert (bar.total, bar.n) == (3, 3)


def test_resize_lets_more_run_at_once():
    """Growing takes effect on a run under way."""
    alive, peak = 0, 0

    def work(item):
        nonlocal alive, peak
        alive += 1
        peak = max(peak, alive)
        for _ in range(4):
            gevent.sleep(0)
        alive -= 1
        return item

    with GreenPool(1) as pool:
        for item, _ in pool.stream(work, range(60), ahead=0):
            if item == 5:
                assert peak == 1
                pool.resize(8)
        assert pool.statistics().size == 8
    assert peak > 1


def test_a_pool_tells_about_itself():
    """Repr and facts show who is busy."""
    with GreenPool(3, name="demo") as pool:
        pool.spawn(gevent.sleep, 0)
        assert repr(pool) == "<GreenPool 'demo' 1/3 busy, 0 waiting>"
        assert facts.snapshot()["pool"]["demo"]["started"] == 1
    assert "closed" in repr(pool)


def test_mistakes_of_the_caller_are_named():
    """Sizes below 1 and costs without a limiter are refused."""
    with pytest.raises(ValueError, match="size"):
        GreenPool(0)
    with pytest.raises(TypeError, match="limiter"):
        GreenPool(1, cost=len)
    with pytest.raises(ValueError, match="ahead"):
        list(GreenPool(1).stream(str, [1], ahead=-1))


def test_killed_is_not_a_greenlet_exit():
    """Reading a killed child's outcome must not kill the reader."""
    assert not issubclass(Killed, gevent.GreenletExit)
