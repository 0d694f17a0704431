"""Waiters that die at random moments, and what the others notice of it: nothing."""

from __future__ import annotations

import itertools
import random

import gevent
import pytest

from greenkit.limits import Limiter
from greenkit.limits._budget import Budget
from greenkit.testing import FakeClock
from tests.unit.limits.simulate import sleeping_moves_the_clock


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    sleeping_moves_the_clock(monkeypatch, clock)
    return clock


def kill_at_random(seed, clock, limiter):
    """Let 30 waiters through while some are killed.

    Return (instants passed, killed in line, killed while the turn was on its way to them).
    """
    rng = random.Random(seed)
    passed = []

    def one():
        with limiter.permit():
            passed.append(clock.now())

    waiters = [gevent.spawn(one) for _ in range(30)]
    in_line = handed = 0
    while True:
        gevent.sleep(0)
        alive = [waiter for waiter in waiters if not waiter.ready()]
        if not alive:
            return passed, in_line, handed
        victim = alive[0] if rng.random() < 0.5 else rng.choice(alive)
        if rng.random() < 0.3 and victim.started:
            in_line += limiter.statistics().waiting > 0
            # No bell: the last head is through, and the next has not run yet.
            handed += victim is alive[0] and limiter._budget._bell is None
            victim.kill(block=rng.random() < 0.5)


def check_nothing_lost(clock, limiter, passed):
    """Every grant is 1/rate after the one before, at most: a killed waiter's turn was not lost."""
    assert limiter.statistics().waiting == 0
    gaps = [later - earlier for earlier, later in itertools.pairwise(passed)]
    assert all(gap == pytest.approx(0.1) for gap in gaps), gaps
    assert limiter.statistics().granted == len(passed)
    clock.advance(0.1)
    assert limiter.try_permit()


def test_a_killed_waiter_loses_no_permit_of_others(clock):
    """Killed at any moment, asleep or being handed the turn, a waiter costs the others nothing."""
    killed_in_line = killed_in_hand_off = 0
    for seed in range(300):
        limiter = Limiter("a", requests="10/s burst 1", clock=clock)
        passed, in_line, handed = kill_at_random(seed, clock, limiter)
        check_nothing_lost(clock, limiter, passed)
        killed_in_line += in_line
        killed_in_hand_off += handed
    assert killed_in_line > 500, "too few were killed in line"
    assert killed_in_hand_off > 100, "the hand-off was hardly ever hit"


def test_the_kill_test_sees_a_limiter_that_books_too_early(clock, monkeypatch):
    """A twin that books a slot per waiter, as tickets do, is caught by the same check."""

    def book_then_sleep(self, costs, *, until):
        self._tats = (max(self._tats[0], self._now()) + costs[0] * 0.1,)
        self.granted += 1
        wait = self._tats[0] - 0.1 - self._now()
        while wait > 0:
            gevent.sleep(0)
            wait = self._tats[0] - 0.1 - self._now() if self.granted % 2 else 0

    monkeypatch.setattr(Budget, "take", book_then_sleep)
    with pytest.raises(AssertionError):  # noqa: PT012
        for seed in range(20):
            limiter = Limiter("a", requests="10/s burst 1", clock=clock)
            with gevent.Timeout(5, AssertionError("stuck")):
                passed, _, _ = kill_at_random(seed, clock, limiter)
            check_nothing_lost(clock, limiter, passed)
