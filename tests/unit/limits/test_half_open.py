"""After a pause the server asked for one call goes first, and the others follow its answer."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from greenkit.errors import LimitTimeout
from greenkit.limits import Limiter
from greenkit.limits._gcra import PROBE_TIME
from greenkit.limits._queue import WakeTimer
from greenkit.testing import FakeClock

CALLS = 20


class StatusError(Exception):
    def __init__(self, status):
        super().__init__(status)
        self.status_code, self.headers = status, {"retry-after": "7"}


class Clock(FakeClock):
    """Go on only when the test says so, and set off the alarms that are due then."""

    def __init__(self):
        super().__init__(1000)
        self.alarms = {}

    def advance(self, seconds):
        super().advance(seconds)
        for alarm, due in list(self.alarms.items()):
            if due <= self.now():
                del self.alarms[alarm]
                gevent.get_hub().loop.run_callback(alarm._callback)
        settle()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(
        WakeTimer, "_start", lambda alarm, _, seconds: clock.alarms.update({alarm: clock.now() + seconds})
    )
    monkeypatch.setattr(WakeTimer, "cancel", lambda alarm: clock.alarms.pop(alarm, None))
    return clock


class Call:
    """A call that is out."""

    def __init__(self, permit):
        self.permit, self.error, self._over = permit, None, Event()

    def wait(self):
        self._over.wait()
        if self.error is not None:
            raise self.error

    def end(self, error):
        self.error = error
        self._over.set()


class Quiet(gevent.Greenlet):
    """Keep its error to itself: it is what the test made it."""

    def _report_error(self, exc_info):
        self._exc_info = exc_info


class Calls:
    """Calls that go out and stay out until the test ends them."""

    def __init__(self, *limiters, many=CALLS):
        self.out = []
        self.jobs = [Quiet(self.call, limiter) for limiter in limiters for _ in range(many)]
        for job in self.jobs:
            job.start()
        settle()

    def call(self, limiter):
        with limiter.permit() as permit:
            mine = Call(permit)
            self.out.append(mine)
            mine.wait()

    def end(self, call, error=None):
        self.out.remove(call)
        call.end(error)
        settle()

    def finish(self):
        gevent.killall(self.jobs)


def settle():
    # A hub that is short of time wakes one waiter a turn, and there are sixty.
    for _ in range(100):
        gevent.sleep(0)


def paused(limiter):
    limiter.observe(429, {"retry-after": "7"})
    return limiter


@pytest.mark.parametrize("key", [None, "me"])
def test_one_goes_first_and_the_rest_follow_its_answer(clock, key):
    """A burst of twenty waits for one answer, also of a key; without the pause all go at once."""
    limiter = Limiter("a", requests="1000/s burst 1000", clock=clock)
    limiter = limiter if key is None else limiter.key(key)
    together = Calls(limiter)
    assert len(together.out) == CALLS
    together.finish()
    calls = Calls(paused(limiter))
    clock.advance(7.0)
    assert len(calls.out) == 1
    assert not limiter.try_permit(), "nor does anybody overtake"
    calls.end(calls.out[0])
    assert len(calls.out) == CALLS - 1
    calls.finish()


def test_a_refused_probe_pauses_again_and_one_goes_again(clock):
    """Three refusals cost three calls, not three bursts."""
    limiter = paused(Limiter("a", requests="1000/s burst 1000", clock=clock))
    calls = Calls(limiter)
    sent = 0
    for _ in range(3):
        clock.advance(7.0)
        assert len(calls.out) == 1
        sent += 1
        calls.end(calls.out[0], StatusError(429))
    clock.advance(7.0)
    calls.end(calls.out[0])
    assert (sent, len(calls.out)) == (3, CALLS - 4)
    calls.finish()


@pytest.mark.parametrize(
    "error",
    [gevent.GreenletExit(), gevent.Timeout(), ConnectionResetError(), StatusError(503), TimeoutError()],
)
def test_a_probe_that_is_lost_hands_over(clock, error):
    """Killed, cut off or timed out it says nothing of the limit: another goes, alone."""
    limiter = paused(Limiter("a", requests="1000/s burst 1000", clock=clock))
    calls = Calls(limiter)
    clock.advance(7.0)
    probe = calls.out[0]
    if isinstance(error, StatusError):
        error.headers = {}  # without a time to come back it pauses nobody
    calls.end(probe, error)
    assert len(calls.out) == 1
    assert calls.out[0] is not probe
    calls.end(calls.out[0])
    assert len(calls.out) == CALLS - 2
    calls.finish()


@pytest.mark.parametrize("error", [ValueError(), StatusError(400), StatusError(500)])
def test_an_error_of_another_kind_is_an_answer(clock, error):
    """The server let the call in."""
    error.headers = {}
    calls = Calls(paused(Limiter("a", requests="1000/s burst 1000", clock=clock)))
    clock.advance(7.0)
    calls.end(calls.out[0], error)
    assert len(calls.out) == CALLS - 1
    calls.finish()


def test_a_cost_that_is_settled_is_an_answer(clock):
    """The rest need not wait for the end of a long stream."""
    calls = Calls(paused(Limiter("a", requests="1000/s burst 1000", clock=clock)))
    clock.advance(7.0)
    calls.out[0].permit.settle(requests=1)
    settle()
    assert len(calls.out) == CALLS
    calls.finish()


def test_a_probe_without_an_answer_does_not_block_for_ever(clock):
    """After a while the rest go; however many probes were lost meanwhile, it is the same while."""
    limiter = paused(Limiter("a", requests="1000/s burst 1000", clock=clock))
    clock.advance(7.0)
    lost = limiter.try_permit()
    assert lost
    assert not limiter.try_permit()
    clock.advance(PROBE_TIME - 1.0)
    with pytest.raises(ConnectionResetError), lost:
        raise ConnectionResetError
    assert limiter.try_permit()
    assert not limiter.try_permit()
    clock.advance(1.0)
    assert [bool(limiter.try_permit()) for _ in range(CALLS)] == [True] * CALLS


def test_an_answer_of_before_the_pause_says_nothing(clock):
    """A call that was out when the pause began ends well: still one goes first."""
    limiter = Limiter("a", requests="1000/s burst 1000", clock=clock)
    with limiter.permit():
        paused(limiter)
        clock.advance(7.0)
        probe = limiter.try_permit()
    assert probe
    assert not limiter.try_permit()
    with probe:
        pass
    assert limiter.try_permit()


def test_a_caller_with_no_time_to_wait_for_the_probe_is_told_why(clock):
    """Its time is over before the answer is there."""
    limiter = paused(Limiter("a", requests="1000/s burst 1000", clock=clock))
    clock.advance(7.0)
    with limiter.permit():
        hurried = Quiet(limiter.permit(timeout=1.0).__enter__)
        hurried.start()
        settle()
        clock.advance(1.0)
        with pytest.raises(LimitTimeout, match="first call after a pause"):
            hurried.get(timeout=10)


def test_a_pause_by_hand_ends_for_all(clock):
    """Whoever pauses by hand knows when it is over."""
    limiter = Limiter("a", requests="1000/s burst 1000", clock=clock)
    limiter.pause(7.0)
    calls = Calls(limiter)
    clock.advance(7.0)
    assert len(calls.out) == CALLS
    calls.finish()


def test_resume_lets_all_go(clock):
    """A probe that is out holds nobody back any more."""
    limiter = paused(Limiter("a", requests="1000/s burst 1000", clock=clock))
    calls = Calls(limiter)
    clock.advance(7.0)
    assert len(calls.out) == 1
    limiter.resume()
    settle()
    assert len(calls.out) == CALLS
    calls.finish()


def test_a_key_that_was_paused_is_forgotten_in_the_end(clock):
    """Nobody asks for it after its pause, and it is not remembered for that."""
    limiter = Limiter("a", requests="10/s burst 10", clock=clock)
    paused(limiter.key("gone"))
    clock.advance(100.0)
    for number in range(8):
        clock.advance(10.0)
        limiter.key(number).try_permit()
    assert limiter._keys.live == []


# -- one budget, several processes --------------------------------------------------------------------------


@pytest.fixture
def fleet(clock, courier):
    """Give three limiters, as of three processes, of which one was told to wait."""
    limits = [
        Limiter("a", requests="1000/s burst 1000", share="redis://nowhere", clock=clock) for _ in range(3)
    ]
    limits[0].observe(429, {"retry-after": "7"})
    courier.settle_down_in(8.0)
    return limits


def test_one_goes_first_in_the_whole_fleet(courier, fleet):
    """Sixty wait in three processes: one goes, and its answer reaches all."""
    calls = Calls(*fleet)
    courier.settle_down_in(2.0)
    assert len(calls.out) == 1
    calls.end(calls.out[0])
    courier.settle_down_in(2.0)
    assert len(calls.out) == 3 * CALLS - 1
    calls.finish()


def test_a_refused_probe_pauses_the_fleet_again(courier, fleet):
    """Each refusal is one call in the fleet."""
    calls = Calls(*fleet)
    courier.settle_down_in(1.0)
    for _ in range(3):
        assert len(calls.out) == 1
        calls.end(calls.out[0], StatusError(429))
        courier.settle_down_in(6.0)
        assert not calls.out
        courier.settle_down_in(3.0)
    calls.finish()


@pytest.mark.parametrize("error", [gevent.GreenletExit(), ConnectionResetError()])
def test_a_lost_probe_hands_over_to_any_process(courier, fleet, error):
    """Lost, it lets one of the others go, and not all."""
    calls = Calls(*fleet)
    courier.settle_down_in(1.0)
    probe = calls.out[0]
    calls.end(probe, error)
    courier.settle_down_in(1.0)
    assert len(calls.out) == 1
    assert calls.out[0] is not probe
    calls.finish()


def test_a_process_that_dies_with_the_probe_blocks_nobody_for_long(courier, fleet, clock):
    """Its call is never heard of again; after a while the others go."""
    dying = Calls(fleet[0])
    courier.settle_down_in(1.0)
    assert len(dying.out) == 1
    courier.served = {budget for budget in courier.served if budget is not fleet[0]._budget}
    calls = Calls(*fleet[1:])
    courier.settle_down_in(PROBE_TIME - 2.0)
    assert not calls.out
    courier.settle_down_in(3.0)
    assert len(calls.out) == 2 * CALLS
    calls.finish()
    dying.finish()


def test_a_probe_booked_for_a_waiter_that_died_is_handed_over(courier, fleet, clock):
    """Nobody else waits in its process: the booking goes back, and another process has the next."""
    waiting = Calls(fleet[0], many=1)
    courier.send()
    gevent.killall(waiting.jobs)
    courier.deliver()
    assert courier.record["out"], "it was booked for one who is dead"
    calls = Calls(*fleet[1:])
    courier.settle_down_in(1.0)
    assert len(calls.out) == 1
    calls.finish()


def test_alone_it_goes_on_probing(courier, fleet, clock):
    """The store goes away in the middle of it: one of this process goes first, and the rest follow."""
    calls = Calls(fleet[0])
    courier.settle_down_in(1.0)
    assert len(calls.out) == 1
    calls.out.clear()
    fleet[0]._budget.lost(OSError("gone"))
    clock.advance(0.1)
    assert len(calls.out) == 1
    calls.end(calls.out[0])
    clock.advance(0.1)
    assert len(calls.out) == CALLS - 2
    calls.finish()
