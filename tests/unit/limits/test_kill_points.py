"""Whoever waits for a permit, holds one or is being handed one: killed at any switch, nothing is lost."""

from __future__ import annotations

import itertools

import gevent
import pytest

from greenkit.limits import Limiter
from greenkit.testing import FakeClock, kill_at_every_switch
from tests.unit.limits.simulate import sleeping_moves_the_clock

WAITERS = 4


class Scene:
    """Four waiters for a limiter that lets one go every 0.1 s, and two hold it at most."""

    def __init__(self, clock, **limits):
        self.clock, self.begin = clock, clock.now()
        self.limiter = Limiter("a", clock=clock, **limits)
        self.waiters, self.passed = [], []

    def wait(self, number):
        with self.limiter.permit(tokens=10) as permit:
            self.passed.append(self.clock.now())
            gevent.sleep(0)
            permit.settle(tokens=4)

    def attempt(self, number):
        for attempt in self.limiter.attempts(tokens=10, deadline=60.0):
            with attempt as permit:
                self.passed.append(self.clock.now())
                gevent.sleep(0)
                permit.settle(tokens=4)

    def crowd(self, way):
        self.waiters = [gevent.spawn(getattr(self, way), number) for number in range(WAITERS)]
        gevent.joinall(self.waiters, raise_error=True)

    def name(self, greenlet):
        return "waiter" if greenlet in self.waiters else None

    def check(self):
        """All have ended, nothing is held or waited for, and no slot passed unused while somebody waited."""
        gevent.joinall(self.waiters, timeout=20)
        assert all(waiter.dead for waiter in self.waiters)
        seen = self.limiter.statistics()
        assert (seen.waiting, seen.in_use) == (0, 0)
        assert seen.granted == len(self.passed)
        gaps = [later - earlier for earlier, later in itertools.pairwise(self.passed)]
        assert all(gap == pytest.approx(0.1) for gap in gaps), gaps


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    # The clock stands still while a kill takes its course: the victim's end, its slot, the next waiter, whose
    # own body has a switch. With 4 turns it moved on in between, once in six runs. What is checked is exact:
    # a slot that passes unused is a gap of 0.2 s however many turns there are.
    sleeping_moves_the_clock(monkeypatch, clock, turns=40)
    return clock


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, lambda: OSError("struck")])
@pytest.mark.parametrize("way", ["wait", "attempt"])
def test_a_permit_is_lost_at_no_switch(clock, way, error):
    """Waiters and holders, by a kill, a time-out and an error; the others pass in their time."""
    report = kill_at_every_switch(
        lambda scene: scene.crowd(way), Scene.check, error=error, whom=lambda who, scene: scene.name(who),
        fresh=lambda: Scene(clock, requests="10/s burst 1", tokens="1000/s", concurrency=2),
    )  # fmt: skip
    assert dict(report.victims)["waiter"] > 50


def test_a_holder_that_gives_back_on_exceptions_only_is_found_out(clock):
    """A kill is no Exception: the twin keeps its slot when it is killed while it holds one."""

    def hold(scene):
        permit = scene.limiter.permit(tokens=10)
        permit.__enter__()
        scene.passed.append(scene.clock.now())
        try:
            gevent.sleep(0)
        except Exception as error:
            permit.__exit__(type(error), error, None)
            raise
        permit.__exit__(None, None, None)

    with pytest.raises(AssertionError, match=r"killed at .* hold: "):
        kill_at_every_switch(
            hold,
            Scene.check,
            fresh=lambda: Scene(clock, requests="10/s", concurrency=2, tokens="9/s burst 90"),
        )
