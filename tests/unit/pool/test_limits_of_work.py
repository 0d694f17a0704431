"""How long one piece of work may run, and how many may run at once."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from greenkit._aimd import AdaptiveSize
from greenkit.errors import RateLimited
from greenkit.pool import GreenPool, OutOfTime
from greenkit.pool._outcome import is_overload


def hang(item):
    return Event().wait() if item == "hangs" else item


def turns(number):
    for _ in range(number):
        gevent.sleep(0)


def test_work_that_hangs_is_ended_and_the_others_are_not():
    """Its outcome is OutOfTime; its slot goes to the next."""
    with GreenPool(1, deadline=0.02) as pool:
        outs = dict(pool.stream(hang, ["a", "hangs", "b"], on_error="return"))
    assert (outs["a"].value, outs["b"].value) == ("a", "b")
    error = outs["hangs"].error
    assert isinstance(error, OutOfTime)
    assert "after its 0.02 s" in str(error)
    assert pool.statistics().in_use == 0
    assert pool.statistics().failed == 1


def test_a_run_may_set_its_own_deadline():
    """What map(), imap() and stream() are told goes before the pool's."""
    with GreenPool(2, deadline=1000.0) as pool:
        with pytest.raises(OutOfTime):
            pool.map(hang, ["hangs"], deadline=0.01)
        [out] = pool.imap(hang, ["hangs"], deadline=0.01, on_error="return")
        assert isinstance(out.error, OutOfTime)
    with GreenPool(2, deadline=0.01) as pool, pytest.raises(OutOfTime):
        pool.spawn(hang, "hangs").get()
    with GreenPool(2, deadline=0.01) as pool, pytest.raises(OutOfTime):
        pool.try_spawn(hang, "hangs").get()


def test_waiting_for_the_limit_is_not_running():
    """A pause of the limiter does not burn the batch: the clock starts with the work."""

    class Slow:
        waited = 1.0

        def permit(self, **costs):
            return self

        def __enter__(self):
            Event().wait(0.03)
            return self

        def __exit__(self, *error):
            return None

    with GreenPool(2, limiter=Slow(), deadline=0.01) as pool:
        assert pool.map(hang, ["a", "b"]) == ["a", "b"]


def test_a_timeout_of_the_works_own_is_its_own():
    """A gevent.Timeout of somebody else is not taken for the deadline."""

    def impatient(item):
        with gevent.Timeout(0.001):
            Event().wait()

    with GreenPool(1, deadline=1000.0) as pool:
        [(_, out)] = pool.stream(impatient, [1], on_error="return")
    assert isinstance(out.error, gevent.Timeout)


def test_work_nested_on_its_callers_slot_ends_with_its_caller():
    """The deadline of the outer work ends the inner, too."""
    ended = []

    def inner():
        try:
            Event().wait()
        finally:
            ended.append("inner")

    with GreenPool(1) as pool:
        [(_, out)] = pool.stream(lambda _: pool.spawn(inner).get(), [1], on_error="return", deadline=0.02)
        assert isinstance(out.error, OutOfTime)
        turns(3)
        assert ended == ["inner"]


@pytest.mark.parametrize("deadline", [0, -1.0, float("inf"), float("nan")])
def test_a_deadline_that_cannot_be_is_refused(deadline):
    """Time is above 0 and ends, for a pool and for a run."""
    with pytest.raises(ValueError, match="deadline"):
        GreenPool(1, deadline=deadline)
    with pytest.raises(ValueError, match="deadline"):
        GreenPool(1).map(hang, ["a"], deadline=deadline)


def test_outcomes_tell_what_was_charged():
    """The estimate, as corrected by settle; nothing without a limiter."""

    class Gate:
        waited = 0.0

        def permit(self, **costs):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def settle(self, **costs):
            return None

    def work(text):
        if text == "bad":
            raise ValueError(text)
        return len(text) * 10

    with GreenPool(
        2, limiter=Gate(), cost=lambda text: {"tokens": len(text), "images": 1}, settle=lambda used: used
    ) as pool:
        outs = dict(pool.stream(work, ["four", "bad"], on_error="return"))
    assert outs["four"].cost == {"tokens": 40, "images": 1}
    assert outs["bad"].cost == {"tokens": 3, "images": 1}
    with GreenPool(2) as pool:
        assert pool.spawn(work, "x").conclude  # a child has one, too
        [(_, out)] = pool.stream(work, ["x"])
        assert out.cost == {}


class Busy(Exception):  # noqa: N818 - what a client library raises
    """Carry a status, as HTTP clients' errors do."""

    def __init__(self, status):
        super().__init__(status)
        self.status_code = status


class Server:
    """Bear `capacity` calls at once; refuse the others with 429."""

    def __init__(self, capacity):
        self.capacity, self.now, self.peak, self.refused = capacity, 0, 0, 0

    def call(self, item):
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            if self.now > self.capacity:
                self.refused += 1
                raise Busy(429)
            turns(5)
        finally:
            self.now -= 1
        return item


def test_an_adaptive_pool_finds_what_the_server_bears():
    """It climbs to the capacity, and is refused little compared with one that does not adapt."""
    refused = {}
    for adaptive in (False, True):
        server = Server(20)
        with GreenPool(100, adaptive=adaptive) as pool:
            outs = list(pool.stream(server.call, range(4000), on_error="return"))
            size = pool.statistics().size
        assert sum(out.ok for _, out in outs) == 4000 - server.refused
        refused[adaptive] = server.refused
    assert 10 <= size <= 26
    assert server.peak <= 32, "it did not stay near the capacity"
    assert refused[True] * 10 < refused[False]


def test_an_adaptive_pool_reaches_its_ceiling_when_nothing_is_refused():
    """A quarter at first, doubled by every round, never more than it was made with."""
    server = Server(1000)
    with GreenPool(40, adaptive=True) as pool:
        assert (pool.statistics().size, pool.statistics().max_size) == (10, 40)
        pool.map(server.call, range(200))
        assert (pool.statistics().size, pool.statistics().max_size) == (40, 40)
        pool.resize(12)
        assert (pool.statistics().size, pool.statistics().max_size) == (12, 12)
        pool.resize(50)
        assert (pool.statistics().size, pool.statistics().max_size) == (12, 50)
    assert server.peak == 40


def test_a_pool_nobody_fills_does_not_grow():
    """Successes of a pool that is not full say nothing about a larger one."""
    server = Server(1000)
    with GreenPool(40, adaptive=True) as pool:
        for item in range(100):
            pool.spawn(server.call, item).get()
        assert pool.statistics().size == 10


def test_what_means_too_much_may_be_told():
    """A function of one's own decides which errors shrink the pool."""

    def fail(item):
        raise KeyError(item)

    for rule, size in ((True, 10), (lambda error: isinstance(error, KeyError), 8)):
        with GreenPool(40, adaptive=rule) as pool:
            list(pool.stream(fail, [1], on_error="return"))
            assert pool.statistics().size == size


def test_a_rule_that_fails_holds_nobody_up(capsys):
    """An error of that function is printed; the run goes on and gives everything back."""

    def fail(item):
        raise KeyError(item)

    with gevent.Timeout(10), GreenPool(2, adaptive=lambda error: 1 / 0) as pool:
        assert len(list(pool.stream(fail, range(9), on_error="return"))) == 9
    assert pool.statistics().in_use == pool.statistics().children == 0
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_one_round_of_refusals_is_one_cut():
    """What began before the last cut is no news."""
    rule = AdaptiveSize(1, 100, start=25.0)
    sizes = []
    for began, now in ((1.0, 2.0), (1.5, 2.1), (2.05, 3.0)):
        rule.failed(began=began, now=now)
        sizes.append(rule.size)
    assert sizes == [20, 20, 16]
    assert not rule.succeeded(full=False)
    for _ in range(17):
        rule.succeeded(full=True)
    assert rule.size == 17, "one more per round of successes"
    for now in range(4, 40):
        rule.failed(began=now, now=now + 0.5)
    assert rule.size == 1


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (Busy(429), True),
        (Busy(503), True),
        (Busy(529), True),
        (Busy(500), False),
        (RateLimited("later"), True),
        (TimeoutError(), True),
        (gevent.Timeout(1), True),
        (OutOfTime(), True),
        (caused(RuntimeError("client library"), TimeoutError()), True),
        (caused(RuntimeError("wrapped"), Busy(429)), True),
        (ValueError(429), False),
        (ConnectionRefusedError(), False),
    ],
)
def test_what_means_too_much_at_once(error, means):
    """429, 503, 529 and time-outs, also as the cause of another error."""
    assert is_overload(error) is means


def test_a_response_tells_too():
    """The status may be its response's, as with requests."""
    error = RuntimeError()
    error.response = Busy(429)
    assert is_overload(error)
    error.response = None
    assert not is_overload(error)
